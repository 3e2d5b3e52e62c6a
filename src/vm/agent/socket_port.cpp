#include "vm/agent/socket_port.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace trapeze {

SocketPort::SocketPort(EventLoop& loop, Fd socket, ConsolePort& port, std::function<void()> on_end)
    : loop_(loop), socket_(std::move(socket)), port_(port), on_end_(std::move(on_end)) {}

SocketPort::~SocketPort() {
  *self_ = nullptr;
  port_.attach(nullptr);
  loop_.unwatch(socket_.get());
}

Result<void> SocketPort::start() {
  TRY(loop_.watch(socket_.get(), EPOLLIN, [this](uint32_t events) { on_ready(events); }));
  port_.attach(this);
  return {};
}

size_t SocketPort::send(std::span<const std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size() && !is_over_) {
    const ssize_t sent = ::send(socket_.get(), bytes.data() + done, bytes.size() - done,
                                MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
    } else if (errno == EAGAIN) {
      wants_room_ = true;
      update_events();
      return done;
    } else if (errno != EINTR) {
      return bytes.size();  // nobody is there any more: reading tells
    }
  }
  return bytes.size();
}

void SocketPort::output_ready() {
  loop_.post([self = self_] {
    if (*self != nullptr) (*self)->deliver();
  });
}

void SocketPort::on_ready(uint32_t events) {
  if ((events & EPOLLOUT) != 0 && wants_room_) {
    wants_room_ = false;
    update_events();
    port_.on_guest_ready();
  }
  if (begin_ != end_ || is_over_) return;
  const ssize_t got = ::recv(socket_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return end();
  begin_ = 0;
  end_ = static_cast<size_t>(got);
  deliver();
}

void SocketPort::deliver() {
  while (begin_ != end_) {
    const auto rest = std::span(buffer_).subspan(begin_, end_ - begin_);
    const size_t taken = std::min(port_.receive(rest), rest.size());
    begin_ += taken;
    if (taken == 0) break;
  }
  update_events();
}

void SocketPort::end() {
  is_over_ = true;
  loop_.unwatch(socket_.get());
  on_end_();
}

void SocketPort::update_events() {
  if (is_over_) return;
  const uint32_t reading = begin_ == end_ ? uint32_t{EPOLLIN} : 0;
  loop_.set_events(socket_.get(), reading | (wants_room_ ? uint32_t{EPOLLOUT} : 0));
}

}  // namespace trapeze
