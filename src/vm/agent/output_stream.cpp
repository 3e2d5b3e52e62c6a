#include "vm/agent/output_stream.h"

#include <cerrno>
#include <utility>

namespace trapeze {

OutputStream::OutputStream(EventLoop& loop, int fd) : loop_(loop) {
  auto stream = StreamFd::borrow(fd, StreamFd::Direction::Write);
  if (stream) stream_ = std::move(*stream);
}

OutputStream::~OutputStream() {
  if (watched_) loop_.unwatch(stream_->fd());
}

void OutputStream::set_handlers(std::function<void()> on_ready, std::function<void(int)> on_gone) {
  on_ready_ = std::move(on_ready);
  on_gone_ = std::move(on_gone);
}

size_t OutputStream::write(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size() && stream_) {
    const auto outcome = stream_->write(bytes.subspan(done));
    done += outcome.bytes;
    taken_ += outcome.bytes;
    switch (outcome.status) {
      case StreamFd::Status::Ok:
        break;
      case StreamFd::Status::Blocked:
        wait_for_room();
        if (stream_) return done;
        break;
      case StreamFd::Status::End:
        lose(EPIPE);
        break;
      case StreamFd::Status::Failed:
        lose(errno);
        break;
    }
  }
  return bytes.size();
}

void OutputStream::wait_for_room() {
  const int fd = stream_->fd();
  if (watched_) return loop_.set_events(fd, EPOLLOUT);
  const auto watching = loop_.watch(fd, EPOLLOUT, [this, fd](uint32_t) {
    loop_.set_events(fd, 0);
    if (on_ready_) on_ready_();
  });
  watched_ = watching.has_value();
  // Cannot happen for a descriptor that write() accepts; losing it beats hanging.
  if (!watching) lose(watching.error().os_error);
}

void OutputStream::lose(int os_error) {
  if (watched_) loop_.unwatch(stream_->fd());
  watched_ = false;
  stream_.reset();
  if (on_gone_) on_gone_(os_error);
}

}  // namespace trapeze
