#include "vm/agent/session_sockets.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "agent/protocol.h"
#include "base/bytes.h"

namespace trapeze {
namespace {

constexpr size_t kMaxAnswerBytes = 32;  // of "OK <port>"

Unexpected<Error> no_answer() {
  if (errno == EAGAIN) return fail("the guest's agent does not answer");
  return fail("the guest's agent does not take further commands (its kernel may lack vsock)");
}

bool send_all(const Fd& socket, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
  return true;
}

bool receive_all(const Fd& socket, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = ECONNRESET;
    if (got <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return true;
}

// Byte by byte: what follows the line is the session's.
bool receive_ok(const Fd& socket) {
  std::string line;
  for (;;) {
    std::byte byte{};
    if (!receive_all(socket, {&byte, 1})) return false;
    if (byte == std::byte{'\n'}) return line.starts_with("OK ");
    if (line.size() == kMaxAnswerBytes) return false;
    line += static_cast<char>(byte);
  }
}

Result<Fd> connect_port(const std::string& path, uint32_t port,
                        std::chrono::milliseconds patience) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail("{}: the path is too long", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return fail_errno("cannot create a unix socket");
  const timeval limit{.tv_sec = patience.count() / 1000,
                      .tv_usec = (patience.count() % 1000) * 1000};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_errno("cannot reach the machine");
  }
  const std::string order = "CONNECT " + std::to_string(port) + "\n";
  if (!send_all(socket, std::as_bytes(std::span(order))) || !receive_ok(socket)) return no_answer();
  return socket;
}

}  // namespace

Result<SessionSockets> connect_session(const std::string& vsock_path,
                                       std::chrono::milliseconds patience) {
  Fd control = TRY(connect_port(vsock_path, agent::kSessionPort, patience));
  return finish_handshake(std::move(control),
                          [&](uint32_t port) { return connect_port(vsock_path, port, patience); });
}

Result<SessionSockets> finish_handshake(Fd control,
                                        const std::function<Result<Fd>(uint32_t port)>& connect) {
  agent::SessionGreeting greeting;
  if (::getrandom(greeting.token, sizeof(greeting.token), 0) != sizeof(greeting.token)) {
    return fail_errno("no random bytes from the host");
  }
  SessionSockets sockets;
  sockets.control = std::move(control);
  agent::SessionStreams streams;
  if (!send_all(sockets.control, bytes_of_value(greeting)) ||
      !receive_all(sockets.control, std::as_writable_bytes(std::span(&streams, 1)))) {
    return no_answer();
  }
  if (!agent::is_sound(streams)) {
    return fail("the guest's agent speaks another version of its protocol");
  }
  sockets.stdio = TRY(connect(streams.port));
  greeting.role = agent::PortRole::Stdio;
  if (!send_all(sockets.stdio, bytes_of_value(greeting))) return no_answer();
  sockets.stderr_out = TRY(connect(streams.port));
  greeting.role = agent::PortRole::Stderr;
  if (!send_all(sockets.stderr_out, bytes_of_value(greeting))) return no_answer();
  return sockets;
}

}  // namespace trapeze
