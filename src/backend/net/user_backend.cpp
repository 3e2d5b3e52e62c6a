#include "backend/net/user_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"
#include "base/unix_socket.h"
#include "virtio/net/protocol.h"

namespace trapeze {

using user_wire::PublishedPort;
using user_wire::UserNetworkOrder;

namespace {

constexpr int kReadyLimitMs = 30'000;
constexpr int kEndLimitMs = 2'000;
// Some of the longest frames; the kernel may give less.
constexpr int kSocketBufferBytes = 4 << 20;

// More than the usual limit where we may.
void widen(const Fd& socket) {
  for (const int option : {SO_SNDBUF, SO_SNDBUFFORCE}) {
    ::setsockopt(socket.get(), SOL_SOCKET, option, &kSocketBufferBytes, sizeof(kSocketBufferBytes));
  }
}

bool waits_for(const Fd& fd, int limit_ms) {
  pollfd slot{.fd = fd.get(), .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = ::poll(&slot, 1, limit_ms);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

}  // namespace

// HelperProcess -----------------------------------------------------------------------------------

Result<HelperProcess> HelperProcess::start(const std::string& program,
                                           const std::string& first_argument, const Fd& socket) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  // First of all: it may be one of the standard streams, where those were closed.
  ::posix_spawn_file_actions_adddup2(&actions, socket.get(), user_wire::kHelperSocket);
  // It may not speak for the command in the VM: what it has to say goes through the socket.
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    ::posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_RDWR, 0);
  }
  // Out of the terminal's foreground group: Ctrl-C is for the command in the VM.
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  std::string name = "trapeze";
  std::string argument = first_argument;
  char* const argv[] = {name.data(), argument.data(), nullptr};
  char* const environment[] = {nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program.c_str(), &actions, &attributes, argv, environment);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    errno = error;
    return fail_errno("cannot start the network helper {}", program);
  }
  return HelperProcess(pid);
}

HelperProcess::~HelperProcess() {
  if (pid_ < 0) return;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!process.is_open() || !waits_for(process, kEndLimitMs)) ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

// UserBackend -------------------------------------------------------------------------------------

UserBackend::UserBackend(const UserNetSettings& settings, EventLoop& loop, Fd socket,
                         FrameRingReader ring)
    : loop_(loop), socket_(std::move(socket)), ring_(std::move(ring)) {
  info_.name = "user network";
  info_.mtu = settings.mtu;
  // libslirp takes a TCP segment of any size, and what it sends needs no check.
  info_.offloads = net::kFeatureCsum | net::kFeatureHostTso4 | net::kFeatureGuestCsum;
}

UserBackend::~UserBackend() {
  unwatch();
  socket_.reset();
}

Result<std::unique_ptr<UserBackend>> UserBackend::create(const UserNetSettings& settings,
                                                         const Launcher& launch, EventLoop& loop) {
  if (settings.ports.size() > user_wire::kMaxPorts) {
    return fail("{} published ports: at most {} are possible", settings.ports.size(),
                user_wire::kMaxPorts);
  }
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno("no sockets for the network helper");
  }
  Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  widen(ours);
  FrameRingReader ring = TRY(FrameRingReader::create());
  std::unique_ptr<UserBackend> backend(
      new UserBackend(settings, loop, std::move(ours), std::move(ring)));
  backend->helper_ = TRY(launch(theirs));
  TRY(backend->send_order(settings));
  return backend;
}

Result<void> UserBackend::send_order(const UserNetSettings& settings) {
  UserNetworkOrder order;
  order.network = settings.network;
  order.mtu = settings.mtu;
  order.ports = static_cast<uint16_t>(settings.ports.size());
  order.may_reach_host_loopback = settings.may_reach_host_loopback ? 1 : 0;
  std::array<iovec, 2> parts{iovec{&order, sizeof(order)},
                             iovec{const_cast<PublishedPort*>(settings.ports.data()),
                                   settings.ports.size() * sizeof(PublishedPort)}};
  const std::array fds{ring_.memory().get(), ring_.wake().get()};
  if (send_with_fds(socket_.get(), parts, fds, MSG_NOSIGNAL) < 0) {
    return fail_errno("cannot talk to the network helper");
  }
  return {};
}

Result<void> UserBackend::wait_until_ready() {
  if (!waits_for(socket_, kReadyLimitMs)) {
    return fail("the network helper does not answer within {} s", kReadyLimitMs / 1000);
  }
  std::array<char, user_wire::kMaxStatusBytes> text{};
  const ssize_t got = ::recv(socket_.get(), text.data(), text.size(), 0);
  if (got < 0) return fail_errno("cannot talk to the network helper");
  if (got == 0) return fail("the network helper ended at once");
  const std::string message(text.data() + 1, static_cast<size_t>(got - 1));
  if (!message.empty()) return fail("{}", message);
  return {};
}

void UserBackend::set_guest_offloads(uint64_t offloads) {
  const uint8_t flags =
      (offloads & net::kFeatureGuestCsum) != 0 ? net::kHeaderDataValid : uint8_t{0};
  if (flags == header_flags_ || is_lost_) return;
  header_flags_ = flags;
  // Only a hint: a guest that cannot be told so ignores it, and one that is not told checks itself.
  [[maybe_unused]] const auto sent =
      ::send(socket_.get(), &flags, sizeof(flags), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// HOT
NetBackend::Sent UserBackend::send(uint16_t, std::span<const Frame> frames) {
  constexpr size_t kBatch = 32;
  Sent result;
  while (result.frames < frames.size()) {
    std::array<mmsghdr, kBatch> messages{};
    const size_t count = std::min(kBatch, frames.size() - result.frames);
    for (size_t i = 0; i < count; ++i) {
      const Frame frame = frames[result.frames + i];
      messages[i].msg_hdr.msg_iov = const_cast<iovec*>(frame.data());
      messages[i].msg_hdr.msg_iovlen = frame.size();
    }
    const int sent = ::sendmmsg(socket_.get(), messages.data(), static_cast<unsigned>(count),
                                MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      result.frames += static_cast<size_t>(sent);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      result.status = Status::Blocked;
      return result;
    }
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
      result.status = lose("has ended");
      return result;
    }
    ++result.frames;  // this one cannot be sent
    ++result.dropped;
  }
  return result;
}

// HOT
NetBackend::Received UserBackend::receive(uint16_t, Frame room) {
  if (is_lost_) return {.bytes = 0, .status = Status::Lost};
  const auto taken = ring_.take(room);
  if (taken.status == FrameRingReader::Status::Broken) {
    return {.bytes = 0, .status = lose("has gone wrong")};
  }
  if (ring_.room_is_wanted()) tell_room();
  const bool is_empty = taken.status == FrameRingReader::Status::Empty;
  return {.bytes = taken.bytes, .status = is_empty ? Status::Blocked : Status::Ok};
}

// It looks at the ring with every message, so one that finds no place is not needed.
void UserBackend::tell_room() {
  constexpr std::array<uint8_t, user_wire::kRoomMessageBytes> kMessage{};
  [[maybe_unused]] const auto sent =
      ::send(socket_.get(), kMessage.data(), kMessage.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

// The socket also for its end, which nothing else tells.
void UserBackend::want(uint16_t, bool receiving, bool sending) {
  if (is_lost_) return;
  watch_or_set(socket_.get(), is_socket_watched_, EPOLLIN | (sending ? EPOLLOUT : 0U),
               &UserBackend::handle_socket);
  watch_or_set(ring_.wake().get(), is_ring_watched_, receiving ? EPOLLIN : 0U,
               &UserBackend::handle_frames);
}

void UserBackend::watch_or_set(int fd, bool& is_watched, uint32_t events,
                               void (UserBackend::*handle)(uint32_t)) {
  if (is_watched) return loop_.set_events(fd, events);
  const auto watched =
      loop_.watch(fd, events, [this, handle](uint32_t ready) { (this->*handle)(ready); });
  is_watched = watched.has_value();
}

void UserBackend::handle_frames(uint32_t) {
  ring_.note_wake();
  if (client_ != nullptr) client_->net_ready(0, true, false);
}

// The helper has nothing to say any more: what comes is its end.
void UserBackend::handle_socket(uint32_t events) {
  if ((events & ~uint32_t{EPOLLOUT}) != 0) {
    lose("has ended");
    if (client_ != nullptr) client_->net_gone();
  } else if (client_ != nullptr) {
    client_->net_ready(0, false, true);
  }
}

void UserBackend::unwatch() {
  if (std::exchange(is_socket_watched_, false)) loop_.unwatch(socket_.get());
  if (std::exchange(is_ring_watched_, false)) loop_.unwatch(ring_.wake().get());
}

NetBackend::Status UserBackend::lose(const char* reason) {
  if (!std::exchange(is_lost_, true)) {
    unwatch();
    log(LogLevel::Warning,
        "the helper process of the user network {}: the guest has no network any more", reason);
  }
  return Status::Lost;
}

}  // namespace trapeze
