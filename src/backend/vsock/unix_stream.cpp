#include "backend/vsock/unix_stream.h"

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <string>

#include "base/unix_socket.h"

namespace trapeze {

namespace {

// Room for all that a guest may have under way (VsockConnection::kBufferBytes), so that nothing has
// to be kept for later; as twice as much, socket(7) tells, for what the kernel needs itself.
constexpr int kSendBufferBytes = 256 * 1024;

constexpr uint32_t kEdges = uint32_t{EPOLLET} | uint32_t{EPOLLRDHUP};

// How long messages may be held from a sender that says no more: a fallback, seldom of use.
constexpr std::chrono::milliseconds kSilence{50};

ssize_t send(int socket, std::span<const iovec> from) {
  constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
  if (from.size() == 1) return ::send(socket, from[0].iov_base, from[0].iov_len, kFlags);
  const msghdr message = message_of(from);
  return ::sendmsg(socket, &message, kFlags);
}

}  // namespace

UnixStream::UnixStream(Fd socket, EventLoop& loop)
    : socket_(std::move(socket)), loop_(loop), reader_(socket_.get()) {
  // What it does not get means only that writes are cut short earlier.
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof(kSendBufferBytes));
}

UnixStream::~UnixStream() {
  reader_.take_off();  // with bytes left, the other side would get a reset for an end
  if (silence_timer_) loop_.cancel_timer(*silence_timer_);
  if (is_watched_) loop_.unwatch(socket_.get());
}

VsockStream::Outcome UnixStream::read(std::span<const iovec> to) {
  for (;;) {
    const ssize_t got = reader_.read(to);
    follow_reader();
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
      if (done != 0) reader_.note_answer();
      return {done, done == wanted ? Status::Ok : Status::Blocked};
    }
    if (errno == EINTR) continue;
    return {0, errno == EAGAIN ? Status::Blocked : Status::Failed};
  }
}

void UnixStream::want(bool reading, bool writing) {
  wanted_events_ = (reading ? uint32_t{EPOLLIN} : 0) | (writing ? uint32_t{EPOLLOUT} : 0);
  apply_events();
}

void UnixStream::apply_events() {
  const uint32_t edges = is_quiet_ && wanted_events_ != 0 ? kEdges : 0;
  const uint32_t events = wanted_events_ | edges;
  if (is_watched_) return loop_.set_events(socket_.get(), events);
  if (events == 0) return;
  // Fails only when the host has no memory: then this stream stands still.
  is_watched_ =
      loop_.watch(socket_.get(), events, [this](uint32_t ready) { on_events(ready); }).has_value();
}

void UnixStream::on_events(uint32_t events) {
  // The end is told of once, with the last bytes: these may be read before it is looked for.
  if (is_quiet_ && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    reader_.stop();
    follow_reader();
  }
  if (listener_ != nullptr) listener_->stream_ready();
}

void UnixStream::follow_reader() {
  if (reader_.is_quiet() == is_quiet_) return;
  is_quiet_ = !is_quiet_;
  apply_events();
  if (is_quiet_ && !silence_timer_) start_silence_timer();
}

void UnixStream::start_silence_timer() {
  silence_timer_ = loop_.start_timer(kSilence, [this] {
    silence_timer_.reset();
    reader_.look_for_silence();
    follow_reader();
    if (is_quiet_) start_silence_timer();
  });
}

void UnixStream::end_writing() { ::shutdown(socket_.get(), SHUT_WR); }

// The answer of Firecracker's protocol.
void UnixStream::accepted(uint32_t host_port) {
  const std::string answer = "OK " + std::to_string(host_port) + "\n";
  const iovec part{const_cast<char*>(answer.data()), answer.size()};
  (void)write({&part, 1});  // nothing was written before: it fits
}

}  // namespace trapeze
