#include "init/sessions.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "agent/protocol.h"
#include "init/session.h"
#include "init/system.h"
#include "init/text_file.h"

namespace trapeze::guest {
namespace {

// The host's next step takes milliseconds; a session whose host has gone must not stay for ever.
constexpr timeval kPatience{.tv_sec = 30, .tv_usec = 0};
constexpr int kBacklog = 128;
constexpr char kNoSessions[] = "trapeze.sessions=off";

bool are_forbidden() {
  char cmdline[4096];
  read_text("/proc/cmdline", cmdline);
  for (char* word = std::strtok(cmdline, " \n"); word != nullptr;
       word = std::strtok(nullptr, " \n")) {
    if (std::strcmp(word, kNoSessions) == 0) return true;
  }
  return false;
}

int listen_on(unsigned port, int flags, int backlog) {
  const int fd = ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) return -1;
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      ::listen(fd, backlog) == 0) {
    return fd;
  }
  complain("vsock", errno);
  ::close(fd);
  return -1;
}

// The next connection that the host has made. Programs in the guest may connect, too, over the
// loopback; they are turned away.
int accept_host(int listener) {
  for (;;) {
    sockaddr_vm peer{};
    socklen_t size = sizeof(peer);
    const int fd = ::accept4(listener, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0 || peer.svm_cid == VMADDR_CID_HOST) return fd;
    ::close(fd);
  }
}

void limit_waiting(int fd) {
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
}

bool read_greeting(int fd, agent::SessionGreeting& greeting) {
  size_t done = 0;
  while (done < sizeof(greeting)) {
    const ssize_t size =
        ::read(fd, reinterpret_cast<char*>(&greeting) + done, sizeof(greeting) - done);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return false;
    done += static_cast<size_t>(size);
  }
  return agent::is_sound(greeting);
}

// Opens a port for the two streams and waits until the host has connected to it twice.
bool open_streams(const uint8_t (&token)[agent::kTokenBytes], Ports& ports) {
  const int listener = listen_on(VMADDR_PORT_ANY, 0, 2);
  if (listener < 0) return false;
  limit_waiting(listener);
  sockaddr_vm address{};
  socklen_t size = sizeof(address);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const agent::SessionStreams streams{.port = address.svm_port};
  if (::write(ports.control, &streams, sizeof(streams)) != static_cast<ssize_t>(sizeof(streams))) {
    return false;
  }
  while (!ports.all_open()) {
    const int fd = accept_host(listener);
    if (fd < 0) return false;
    limit_waiting(fd);
    agent::SessionGreeting greeting;
    const bool is_ours =
        read_greeting(fd, greeting) && std::memcmp(greeting.token, token, sizeof(token)) == 0;
    int* slot = nullptr;
    if (is_ours && greeting.role == agent::PortRole::Stdio) slot = &ports.stdio;
    if (is_ours && greeting.role == agent::PortRole::Stderr) slot = &ports.stderr_out;
    if (slot == nullptr || *slot >= 0) {
      ::close(fd);
      continue;
    }
    *slot = fd;
  }
  ::close(listener);
  return true;
}

bool greet(int fd, agent::PortRole role) {
  const agent::Greeting greeting{.role = role};
  return ::write(fd, &greeting, sizeof(greeting)) == static_cast<ssize_t>(sizeof(greeting)) &&
         ::fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

// Process 1's descriptors are its own: an end of a pipe that stays open here would keep its command
// from seeing an end of file.
int keep_only(int fd) {
  constexpr int kKept = STDERR_FILENO + 1;
  if (fd != kKept && ::dup3(fd, kKept, O_CLOEXEC) < 0) ::_exit(1);
  if (::syscall(SYS_close_range, kKept + 1, ~0U, 0) != 0) {
    for (int other = kKept + 1; other < 1024; ++other) ::close(other);
  }
  return kKept;
}

[[noreturn]] void serve(int control) {
  ::signal(SIGPIPE, SIG_IGN);
  Ports ports;
  ports.control = keep_only(control);
  limit_waiting(ports.control);
  agent::SessionGreeting greeting;
  const bool ready =
      read_greeting(ports.control, greeting) && greeting.role == agent::PortRole::Control &&
      open_streams(greeting.token, ports) && greet(ports.control, agent::PortRole::Control) &&
      greet(ports.stdio, agent::PortRole::Stdio) &&
      greet(ports.stderr_out, agent::PortRole::Stderr);
  if (ready) {
    Session session(Session::Kind::Further);
    session.run(ports, -1);
  }
  ::_exit(ready ? 0 : 1);
}

}  // namespace

int open_session_listener() {
  return are_forbidden() ? -1 : listen_on(agent::kSessionPort, SOCK_NONBLOCK, kBacklog);
}

void accept_session(int listener) {
  const int fd = accept_host(listener);
  if (fd < 0) return;
  const pid_t child = ::fork();
  if (child == 0) serve(fd);
  if (child < 0) complain("cannot start a session", errno);
  ::close(fd);
}

}  // namespace trapeze::guest
