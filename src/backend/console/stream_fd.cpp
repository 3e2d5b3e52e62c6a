#include "backend/console/stream_fd.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

namespace trapeze {
namespace {

// A blocking pipe that polls as writable takes at least this much at once (pipe(7)).
constexpr size_t kPolledStep = PIPE_BUF;

Fd open_again(int fd, StreamFd::Direction direction) {
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
  const int access = direction == StreamFd::Direction::Read ? O_RDONLY : O_WRONLY;
  return Fd(::open(path.data(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

StreamFd::Outcome outcome_of(ssize_t moved, StreamFd::Direction direction) {
  using Status = StreamFd::Status;
  if (moved > 0) return {Status::Ok, static_cast<size_t>(moved)};
  if (moved == 0) {
    return {direction == StreamFd::Direction::Read ? Status::End : Status::Blocked, 0};
  }
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return {Status::Blocked, 0};
  // A terminal whose other end has gone says EIO.
  if (errno == EPIPE || errno == ECONNRESET || errno == EIO) return {Status::End, 0};
  return {Status::Failed, 0};
}

}  // namespace

Result<StreamFd> StreamFd::borrow(int fd, Direction direction) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return fail_errno("file descriptor {} cannot be used", fd);
  StreamFd stream;
  stream.borrowed_ = fd;
  if (S_ISSOCK(info.st_mode)) {
    stream.mode_ = Mode::Socket;
    return stream;
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (S_ISREG(info.st_mode) || (flags >= 0 && (flags & O_NONBLOCK) != 0)) return stream;
  stream.own_ = open_again(fd, direction);
  // It fails for a terminal of another user (after su) and where /proc is missing.
  stream.mode_ = stream.own_.is_open() ? Mode::Direct : Mode::Polled;
  return stream;
}

Result<StreamFd> StreamFd::own(Fd fd, Direction direction) {
  auto stream = TRY(borrow(fd.get(), direction));
  if (!stream.own_.is_open()) stream.own_ = std::move(fd);
  return stream;
}

bool StreamFd::is_ready(short events) const {
  pollfd query{.fd = fd(), .events = events, .revents = 0};
  return ::poll(&query, 1, 0) > 0;
}

StreamFd::Outcome StreamFd::read(std::span<std::byte> to) {
  if (to.empty()) return {};
  if (mode_ == Mode::Socket) {
    return outcome_of(::recv(fd(), to.data(), to.size(), MSG_DONTWAIT), Direction::Read);
  }
  if (mode_ == Mode::Polled && !is_ready(POLLIN)) return {Status::Blocked, 0};
  return outcome_of(::read(fd(), to.data(), to.size()), Direction::Read);
}

StreamFd::Outcome StreamFd::write(std::span<const std::byte> from) {
  if (from.empty()) return {};
  if (mode_ == Mode::Socket) {
    const auto sent = ::send(fd(), from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    return outcome_of(sent, Direction::Write);
  }
  if (mode_ == Mode::Polled) {
    if (!is_ready(POLLOUT)) return {Status::Blocked, 0};
    from = from.first(std::min(from.size(), kPolledStep));
  }
  return outcome_of(::write(fd(), from.data(), from.size()), Direction::Write);
}

}  // namespace trapeze
