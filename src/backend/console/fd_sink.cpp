#include "backend/console/fd_sink.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "base/event_fd.h"

namespace trapeze {

Result<std::unique_ptr<FdSink>> FdSink::create(StreamFd output) {
  Fd stop_event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_event.is_open()) return fail_errno("cannot create an eventfd");
  return std::unique_ptr<FdSink>(new FdSink(std::move(output), std::move(stop_event)));
}

void FdSink::write(std::span<const uint8_t> bytes) {
  auto left = std::as_bytes(bytes);
  while (!is_lost_ && !left.empty()) {
    const auto outcome = output_.write(left);
    left = left.subspan(outcome.bytes);
    switch (outcome.status) {
      case StreamFd::Status::Ok:
        break;
      case StreamFd::Status::Blocked:
        if (!wait_writable()) return;
        break;
      case StreamFd::Status::End:
      case StreamFd::Status::Failed:
        is_lost_ = true;  // for good: the guest goes on without a reader
        if (on_lost_) on_lost_();
        break;
    }
  }
}

bool FdSink::wait_writable() const {
  std::array<pollfd, 2> wanted{
      pollfd{.fd = output_.fd(), .events = POLLOUT, .revents = 0},
      pollfd{.fd = stop_event_.get(), .events = POLLIN, .revents = 0},
  };
  ::poll(wanted.data(), wanted.size(), -1);  // a signal only makes it try again
  return wanted[1].revents == 0;
}

void FdSink::stop() { signal_event(stop_event_); }

}  // namespace trapeze
