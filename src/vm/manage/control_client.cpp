#include "vm/manage/control_client.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "base/unix_socket.h"

namespace trapeze::manage {
namespace {

using std::chrono::milliseconds;

// A machine's own limits for an orderly end, and a bit: after that its process must be stuck.
constexpr milliseconds kForceReserve{15'000};
constexpr milliseconds kLastWait{5'000};

// The process has ended, not just given its name back.
void wait_for_process(const Fd& process, milliseconds limit) {
  pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
  if (process.is_open()) ::poll(&ended, 1, static_cast<int>(limit.count()));
}

bool wait_until_gone(const RunningVm& vm, milliseconds limit) {
  constexpr milliseconds kStep{2};
  for (milliseconds waited{0}; waited < limit; waited += kStep) {
    if (vm.is_gone()) return true;
    ::usleep(static_cast<unsigned>(kStep.count()) * 1000);
  }
  return false;
}

}  // namespace

Result<ControlClient> ControlClient::connect(const RunningVm& vm) {
  const std::string path = vm.path_of(kControlFile);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail("{}: the path is too long", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return fail_errno("cannot create a unix socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == ENOENT) return fail("{}: is being started, or ends just now", vm.name);
    return fail_errno("cannot reach the machine {}", vm.name);
  }
  const auto peer = unix_peer(socket.get());
  if (!peer || !is_own_user_or_root(socket.get())) {
    return fail("{}: its control socket belongs to somebody else", vm.name);
  }
  return ControlClient(std::move(socket), peer->pid);
}

Result<void> ControlClient::send(PacketType type, std::span<const std::byte> payload) const {
  const PacketHeader header{.type = type};
  std::array<iovec, 2> parts{iovec{const_cast<PacketHeader*>(&header), sizeof(header)},
                             iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  for (;;) {
    if (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) >= 0) return {};
    if (errno != EINTR) return fail_errno("cannot reach the machine");
  }
}

Result<std::optional<Packet>> ControlClient::receive(std::optional<milliseconds> limit) {
  for (;;) {
    if (limit) {
      pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
      const int count = ::poll(&ready, 1, static_cast<int>(limit->count()));
      if (count == 0) return fail("the machine does not answer");
      if (count < 0 && errno == EINTR) continue;
    }
    const ssize_t got = ::recv(socket_.get(), buffer_.data(), buffer_.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::optional<Packet>();
    const auto packet = parse_packet(std::span(buffer_).first(static_cast<size_t>(got)));
    if (!packet) return fail("the machine runs another version of trapeze");
    return packet;
  }
}

Result<std::string> ControlClient::ask(PacketType type, std::span<const std::byte> payload,
                                       std::optional<milliseconds> limit) {
  TRY(send(type, payload));
  const auto answer = TRY(receive(limit));
  if (!answer) return fail("the machine has ended");
  std::string text(reinterpret_cast<const char*>(answer->payload.data()), answer->payload.size());
  if (answer->type == PacketType::Failed) return fail("{}", text);
  return text;
}

Result<void> stop_vm(const RunningVm& vm, milliseconds timeout) {
  auto client = TRY(ControlClient::connect(vm));
  // Of the very process that listens there, whatever happens to its number.
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, client.peer(), 0)));
  const StopOrder order{.timeout_ms = static_cast<uint32_t>(timeout.count())};
  TRY(client.send(PacketType::Stop, bytes_of_value(order)));
  const milliseconds limit = timeout + kForceReserve;
  for (;;) {
    const auto packet = client.receive(limit);
    if (!packet) break;  // it is stuck
    if (!*packet) {
      if (!wait_until_gone(vm, kLastWait)) break;
      wait_for_process(process, kLastWait);
      return {};
    }
    if ((*packet)->type == PacketType::Failed) {
      return fail("{}", std::string_view(reinterpret_cast<const char*>((*packet)->payload.data()),
                                         (*packet)->payload.size()));
    }
  }
  if (process.is_open()) ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  if (!wait_until_gone(vm, kLastWait)) {
    return fail("{}: its process {} does not end", vm.name, client.peer());
  }
  wait_for_process(process, kLastWait);
  return fail("{}: its process did not answer and was killed", vm.name);
}

}  // namespace trapeze::manage
