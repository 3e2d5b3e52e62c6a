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
#include "virtio/net/protocol.h"

namespace trapeze {

using user_wire::PublishedPort;
using user_wire::UserNetworkOrder;

namespace {

constexpr int kReadyLimitMs = 30'000;
constexpr int kEndLimitMs = 2'000;
// Some of the longest frames; the kernel may give less.
constexpr int kSocketBufferBytes = 4 << 20;

Result<void> send_order(const Fd& socket, const UserNetSettings& settings) {
  UserNetworkOrder order;
  order.network = settings.network;
  order.mtu = settings.mtu;
  order.ports = static_cast<uint16_t>(settings.ports.size());
  order.may_reach_host_loopback = settings.may_reach_host_loopback ? 1 : 0;
  std::vector<std::byte> message(sizeof(order) + settings.ports.size() * sizeof(PublishedPort));
  std::memcpy(message.data(), &order, sizeof(order));
  if (!settings.ports.empty()) {
    std::memcpy(message.data() + sizeof(order), settings.ports.data(),
                settings.ports.size() * sizeof(PublishedPort));
  }
  if (::send(socket.get(), message.data(), message.size(), MSG_NOSIGNAL) < 0) {
    return fail_errno("cannot talk to the network helper");
  }
  return {};
}

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

UserBackend::UserBackend(const UserNetSettings& settings, EventLoop& loop) : loop_(loop) {
  info_.name = "user network";
  info_.mtu = settings.mtu;
  // libslirp takes a TCP segment of any size, and what it sends needs no check.
  info_.offloads = net::kFeatureCsum | net::kFeatureHostTso4 | net::kFeatureGuestCsum;
}

UserBackend::~UserBackend() {
  if (is_watched_) loop_.unwatch(socket_.get());
  socket_.reset();
}

Result<std::unique_ptr<UserBackend>> UserBackend::create(const UserNetSettings& settings,
                                                         const Launcher& launch, EventLoop& loop) {
  if (settings.ports.size() > user_wire::kMaxPorts) {
    return fail("{} published ports: at most {} are possible", settings.ports.size(),
                user_wire::kMaxPorts);
  }
  std::unique_ptr<UserBackend> backend(new UserBackend(settings, loop));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno("no sockets for the network helper");
  }
  backend->socket_ = Fd(ends[0]);
  const Fd theirs(ends[1]);
  widen(backend->socket_);
  widen(theirs);
  backend->helper_ = TRY(launch(theirs));
  TRY(send_order(backend->socket_, settings));
  return backend;
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
      result.status = lose();
      return result;
    }
    ++result.frames;  // this one cannot be sent
    ++result.dropped;
  }
  return result;
}

// HOT
NetBackend::Received UserBackend::receive(uint16_t, Frame room) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(room.data());
  message.msg_iovlen = room.size();
  for (;;) {
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got > 0) return {.bytes = static_cast<size_t>(got), .status = Status::Ok};
    if (got == 0) return {.bytes = 0, .status = lose()};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return {.bytes = 0, .status = Status::Blocked};
    return {.bytes = 0, .status = lose()};
  }
}

void UserBackend::want(uint16_t, bool receiving, bool sending) {
  if (is_lost_) return;
  const uint32_t events = (receiving ? EPOLLIN : 0U) | (sending ? EPOLLOUT : 0U);
  if (is_watched_) return loop_.set_events(socket_.get(), events);
  if (events == 0) return;
  const auto watched =
      loop_.watch(socket_.get(), events, [this](uint32_t ready) { handle_ready(ready); });
  is_watched_ = watched.has_value();
}

void UserBackend::handle_ready(uint32_t events) {
  const bool has_ended = (events & (EPOLLHUP | EPOLLERR)) != 0;
  if (client_ == nullptr) return;
  // An end shows in the read or the write.
  client_->net_ready(0, has_ended || (events & EPOLLIN) != 0,
                     has_ended || (events & EPOLLOUT) != 0);
}

NetBackend::Status UserBackend::lose() {
  if (!is_lost_) {
    is_lost_ = true;
    if (is_watched_) loop_.unwatch(socket_.get());
    is_watched_ = false;
    log(LogLevel::Warning,
        "the helper process of the user network has ended: the guest has no network any more");
  }
  return Status::Lost;
}

}  // namespace trapeze
