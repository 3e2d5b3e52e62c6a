#include "backend/vsock/unix_stream.h"

#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "base/unix_socket.h"

namespace trapeze {

namespace {

// Room for all that a guest may have under way (VsockConnection::kBufferBytes), so that nothing has
// to be kept for later; as twice as much, socket(7) tells, for what the kernel needs itself.
constexpr int kSendBufferBytes = 256 * 1024;

// Without the detour of a message where there is one part.
ssize_t receive(int socket, std::span<const iovec> to) {
  if (to.size() == 1) return ::recv(socket, to[0].iov_base, to[0].iov_len, MSG_DONTWAIT);
  msghdr message = message_of(to);
  return ::recvmsg(socket, &message, MSG_DONTWAIT);
}

ssize_t send(int socket, std::span<const iovec> from) {
  constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
  if (from.size() == 1) return ::send(socket, from[0].iov_base, from[0].iov_len, kFlags);
  const msghdr message = message_of(from);
  return ::sendmsg(socket, &message, kFlags);
}

}  // namespace

UnixStream::UnixStream(Fd socket, EventLoop& loop) : socket_(std::move(socket)), loop_(loop) {
  // What it does not get means only that writes are cut short earlier.
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
}

UnixStream::~UnixStream() {
  if (is_watched_) loop_.unwatch(socket_.get());
}

VsockStream::Outcome UnixStream::read(std::span<const iovec> to) {
  for (;;) {
    const ssize_t got = receive(socket_.get(), to);
    if (got > 0) return {static_cast<size_t>(got), Status::Ok};
    if (got == 0) return {0, Status::End};
    if (errno == EINTR) continue;
    return {0, errno == EAGAIN ? Status::Blocked : Status::Failed};
  }
}

VsockStream::Outcome UnixStream::write(std::span<const iovec> from) {
  size_t wanted = 0;
  for (const iovec& part : from) wanted += part.iov_len;
  for (;;) {
    const ssize_t sent = send(socket_.get(), from);
    if (sent >= 0) {
      const auto done = static_cast<size_t>(sent);
      return {done, done == wanted ? Status::Ok : Status::Blocked};
    }
    if (errno == EINTR) continue;
    return {0, errno == EAGAIN ? Status::Blocked : Status::Failed};
  }
}

void UnixStream::want(bool reading, bool writing) {
  const uint32_t events = (reading ? uint32_t{EPOLLIN} : 0) | (writing ? uint32_t{EPOLLOUT} : 0);
  if (is_watched_) return loop_.set_events(socket_.get(), events);
  if (events == 0) return;
  // Fails only when the host has no memory: then this stream stands still.
  is_watched_ = loop_
                    .watch(socket_.get(), events,
                           [this](uint32_t) {
                             if (listener_ != nullptr) listener_->stream_ready();
                           })
                    .has_value();
}

void UnixStream::end_writing() { ::shutdown(socket_.get(), SHUT_WR); }

// The answer of Firecracker's protocol.
void UnixStream::accepted(uint32_t host_port) {
  const std::string answer = "OK " + std::to_string(host_port) + "\n";
  const iovec part{const_cast<char*>(answer.data()), answer.size()};
  (void)write({&part, 1});  // nothing was written before: it fits
}

}  // namespace trapeze
