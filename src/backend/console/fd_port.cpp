#include "backend/console/fd_port.h"

#include <utility>

namespace trapeze {

Result<std::unique_ptr<FdPort>> FdPort::create(EventLoop& loop, FdPortConfig config) {
  auto port = std::unique_ptr<FdPort>(new FdPort(loop, std::move(config.output)));
  FdPort* self = port.get();
  if (port->output_) {
    TRY(loop.watch(port->output_->fd(), 0, [self](uint32_t) { self->on_writable(); }));
  }
  if (config.input) {
    const bool closes = config.close_at_end_of_input;
    port->input_ = TRY(InputPump::create(
        loop, *std::move(config.input),
        [self](std::span<const std::byte> bytes) {
          return self->guest_ != nullptr ? self->guest_->send(bytes) : size_t{0};
        },
        [self, closes] {
          if (closes && self->guest_ != nullptr) self->guest_->set_host_open(false);
        }));
  }
  return port;
}

FdPort::~FdPort() {
  if (output_) loop_.unwatch(output_->fd());
}

void FdPort::attach(ConsoleGuest* guest) {
  guest_ = guest;
  if (guest_ != nullptr && input_) input_->resume();  // input may be waiting already
}

size_t FdPort::receive(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (output_ && done < bytes.size()) {
    const auto outcome = output_->write(bytes.subspan(done));
    done += outcome.bytes;
    switch (outcome.status) {
      case StreamFd::Status::Ok:
        break;
      case StreamFd::Status::Blocked:
        loop_.set_events(output_->fd(), EPOLLOUT);
        return done;
      case StreamFd::Status::End:
      case StreamFd::Status::Failed:
        // Nobody will ever read it (a full disk, a reader that ended): the guest must not wait.
        loop_.unwatch(output_->fd());
        output_.reset();
        break;
    }
  }
  return bytes.size();
}

void FdPort::on_writable() {
  loop_.set_events(output_->fd(), 0);
  if (guest_ != nullptr) guest_->output_ready();
}

void FdPort::on_guest_ready() {
  if (input_) input_->resume();
}

}  // namespace trapeze
