// The guest's side of the vsock tests, and the host's where that has AF_VSOCK, too.
//
//   vsock_peer echo PORT COUNT   says "listening", echoes on COUNT connections, then ends
//   vsock_peer call PORT [CID]   sends stdin to that port (of the host unless told) and prints what
//                                comes back, both at the same time
//   vsock_peer answer PORT       the same with whoever connects first
//   vsock_peer storm PORT COUNT  opens COUNT connections to the host at once, sends a line on each
//                                and wants it back; prints how many were right
//   vsock_peer fill PORT         sends to the host until nothing goes any more; prints how many
//                                bytes went, of the pattern 0, 1, ... 250, 0, ...
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

int open_socket() { return ::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0); }

sockaddr_vm address_of(unsigned cid, unsigned port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

int connect_to(unsigned cid, unsigned port) {
  const int fd = open_socket();
  const sockaddr_vm address = address_of(cid, port);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return fd;
  std::perror("connect");
  std::exit(1);
}

bool write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t done = ::write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    data += done;
    size -= static_cast<size_t>(done);
  }
  return true;
}

int listen_on(unsigned port) {
  const int listener = open_socket();
  const sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
      ::listen(listener, 1024) == 0) {
    return listener;
  }
  std::perror("listen");
  std::exit(1);
}

int echo(unsigned port, int count) {
  const int listener = listen_on(port);
  std::puts("listening");
  std::fflush(stdout);
  std::vector<pollfd> polled{{listener, POLLIN, 0}};
  static char buffer[64 * 1024];
  while (count > 0) {
    if (::poll(polled.data(), polled.size(), -1) < 0) return 1;
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const ssize_t got = ::read(polled[i].fd, buffer, sizeof(buffer));
      if (got > 0 && write_all(polled[i].fd, buffer, static_cast<size_t>(got))) continue;
      ::close(polled[i].fd);
      polled[i].fd = -1;  // poll() passes it over
      --count;
    }
    if ((polled[0].revents & POLLIN) != 0) {
      polled.push_back({::accept(listener, nullptr, nullptr), POLLIN, 0});
    }
  }
  return 0;
}

bool copy(int from, int to) {
  static char buffer[64 * 1024];
  ssize_t got = 0;
  while ((got = ::read(from, buffer, sizeof(buffer))) > 0) {
    if (!write_all(to, buffer, static_cast<size_t>(got))) return false;
  }
  return got == 0;
}

int exchange(int fd) {
  const pid_t sender = ::fork();
  if (sender == 0) {
    const bool is_sent = copy(STDIN_FILENO, fd);
    ::shutdown(fd, SHUT_WR);
    std::_Exit(is_sent ? 0 : 1);
  }
  const bool has_come = copy(fd, STDOUT_FILENO);
  int status = 1;
  ::waitpid(sender, &status, 0);
  return has_come && status == 0 ? 0 : 1;
}

int storm(unsigned port, int count) {
  std::vector<int> fds;
  for (int i = 0; i < count; ++i) fds.push_back(connect_to(VMADDR_CID_HOST, port));
  int right = 0;
  for (int i = 0; i < count; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    if (!write_all(fds[static_cast<size_t>(i)], line.data(), line.size())) return 1;
  }
  for (int i = 0; i < count; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    std::string answer;
    char byte = 0;
    while (answer.size() < line.size() && ::read(fds[static_cast<size_t>(i)], &byte, 1) == 1) {
      answer += byte;
    }
    right += answer == line ? 1 : 0;
  }
  std::printf("%d\n", right);
  return 0;
}

int fill(unsigned port) {
  const int fd = connect_to(VMADDR_CID_HOST, port);
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  char pattern[251 * 64];
  for (size_t i = 0; i < sizeof(pattern); ++i) pattern[i] = static_cast<char>(i % 251);
  size_t sent = 0;
  pollfd polled{fd, POLLOUT, 0};
  while (::poll(&polled, 1, 500) > 0) {
    const size_t start = sent % 251;
    const ssize_t done = ::write(fd, pattern + start, sizeof(pattern) - start);
    if (done < 0 && errno != EAGAIN) return 1;
    sent += done < 0 ? 0 : static_cast<size_t>(done);
  }
  std::printf("%zu\n", sent);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 2 ? argv[1] : "";
  const auto port = static_cast<unsigned>(argc > 2 ? std::atoi(argv[2]) : 0);
  if (verb == "echo" && argc == 4) return echo(port, std::atoi(argv[3]));
  if (verb == "call" && (argc == 3 || argc == 4)) {
    const auto cid = argc == 4 ? static_cast<unsigned>(std::atoi(argv[3])) : VMADDR_CID_HOST;
    return exchange(connect_to(cid, port));
  }
  if (verb == "answer" && argc == 3) return exchange(::accept(listen_on(port), nullptr, nullptr));
  if (verb == "fill" && argc == 3) return fill(port);
  if (verb == "storm" && argc == 4) return storm(port, std::atoi(argv[3]));
  std::fputs(
      "usage: vsock_peer echo PORT COUNT | call PORT [CID] | answer PORT | storm PORT COUNT | fill "
      "PORT\n",
      stderr);
  return 2;
}
