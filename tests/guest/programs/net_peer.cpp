// Both ends of TCP, UDP and vsock traffic, for tests and bench/: the same program in the guest and
// on the host. ADDRESS is an IPv4 address; or "vsock": the host, and for a server whoever connects;
// or, for a server, the path of a unix socket. A line on stdout says how it went.
//
//   net_peer serve ADDRESS PORT                serves the orders below, TCP and UDP, for ever
//   net_peer udp-serve PORT COUNT              echoes COUNT datagrams
//   net_peer send|receive ADDRESS PORT SECONDS [STREAMS [WARM-UP]]    to or from the server:
//       "send|receive BYTES NANOSECONDS", what arrived in SECONDS; before that, behind WARM-UP
//       seconds of the same connections, "begin"
//   net_peer ping ADDRESS PORT SECONDS         a byte there and back:  "ping COUNT NANOSECONDS"
//   net_peer udp ADDRESS PORT COUNT BYTES      datagrams, each echoed: "udp COUNT LOST"
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

constexpr size_t kBufferBytes = 256 * 1024;

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "net_peer: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

template <class Socket>
Address address_from(const Socket& socket) {
  Address result;
  std::memcpy(&result.storage, &socket, sizeof(socket));
  result.size = sizeof(socket);
  return result;
}

Address vsock_address(unsigned cid, const char* port) {
  sockaddr_vm socket{};
  socket.svm_family = AF_VSOCK;
  socket.svm_cid = cid;
  socket.svm_port = static_cast<unsigned>(std::atoi(port));
  return address_from(socket);
}

Address unix_address(const char* path) {
  sockaddr_un socket{};
  socket.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof(socket.sun_path)) give_up(path);
  std::strcpy(socket.sun_path, path);
  return address_from(socket);
}

// `vsock_cid`: whom "vsock" means.
Address address_of(const char* address, const char* port, unsigned vsock_cid) {
  if (std::strcmp(address, "vsock") == 0) return vsock_address(vsock_cid, port);
  if (address[0] == '/') return unix_address(address);
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_port = htons(static_cast<uint16_t>(std::atoi(port)));
  if (::inet_pton(AF_INET, address, &result.sin_addr) != 1) give_up(address);
  return address_from(result);
}

int open_socket(int family, int type) {
  const int fd = ::socket(family, type, 0);
  if (fd < 0) give_up("socket");
  return fd;
}

// Where there is such a thing: each write goes out at once. And windows open until something is
// lost: CUBIC takes the uneven round trips of a virtual machine for a full line, and then a stream
// of seconds has a tenth of the speed, by chance (HyStart, RFC 9406).
void set_tcp_options(int fd) {
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  constexpr std::string_view kCongestionControl = "reno";
  ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kCongestionControl.data(),
               kCongestionControl.size());
}

// What a connection begins with.
struct Order {
  enum : uint64_t { Send, Receive, Ping };
  uint64_t what = Send;
  uint64_t warm_up_ns = 0;
  uint64_t length_ns = 0;
};

// What the server has got, and how much of it in the order's time.
struct Arrived {
  uint64_t all = 0;
  uint64_t counted = 0;
};

// When to count, from now on.
class Window {
 public:
  explicit Window(const Order& order)
      : begin_(now_ns() + order.warm_up_ns), end_(begin_ + order.length_ns) {}
  bool is_over() const { return now_ns() >= end_; }
  void count(Arrived& arrived, ssize_t bytes) const {
    const uint64_t now = now_ns();
    arrived.all += static_cast<uint64_t>(bytes);
    if (now >= begin_ && now < end_) arrived.counted += static_cast<uint64_t>(bytes);
  }

 private:
  const uint64_t begin_;
  const uint64_t end_;
};

int connect_to(const Address& to, const Order& order) {
  const int fd = open_socket(to.family(), SOCK_STREAM);
  if (::connect(fd, to.get(), to.size) != 0) give_up("connect");
  set_tcp_options(fd);
  if (::write(fd, &order, sizeof(order)) != sizeof(order)) give_up("write");
  return fd;
}

int listen_on(const Address& at, int type) {
  const int fd = open_socket(at.family(), type);
  const int one = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (::bind(fd, at.get(), at.size) != 0) give_up("bind");
  if (type == SOCK_STREAM && ::listen(fd, 64) != 0) give_up("listen");
  return fd;
}

void echo_datagram(int fd) {
  static std::vector<char> buffer(65536);
  sockaddr_in from{};
  socklen_t size = sizeof(from);
  const ssize_t got =
      ::recvfrom(fd, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
  if (got >= 0) {
    ::sendto(fd, buffer.data(), static_cast<size_t>(got), 0, reinterpret_cast<sockaddr*>(&from),
             size);
  }
}

// The other side sends nothing any more.
bool has_ended(int fd) {
  char byte = 0;
  return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void serve_connection(int fd) {
  std::vector<char> buffer(kBufferBytes);
  set_tcp_options(fd);
  Order order;
  if (::recv(fd, &order, sizeof(order), MSG_WAITALL) != sizeof(order)) return;
  if (order.what == Order::Receive) {
    while (!has_ended(fd) && ::write(fd, buffer.data(), buffer.size()) > 0) {
    }
    return;
  }
  const Window window(order);
  Arrived arrived;
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) break;
    window.count(arrived, got);
    const bool is_ping = order.what == Order::Ping;
    if (is_ping && ::write(fd, buffer.data(), static_cast<size_t>(got)) != got) return;
  }
  // The sender waits for it: all has arrived.
  if (order.what == Order::Send && ::write(fd, &arrived, sizeof(arrived)) < 0) return;
}

int serve(const char* address, const char* port) {
  ::signal(SIGCHLD, SIG_IGN);
  const Address at = address_of(address, port, VMADDR_CID_ANY);
  const int streams = listen_on(at, SOCK_STREAM);
  // poll() passes over what is none.
  const int udp = at.family() == AF_INET ? listen_on(at, SOCK_DGRAM) : -1;
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) {
    pollfd slots[2] = {{streams, POLLIN, 0}, {udp, POLLIN, 0}};
    if (::poll(slots, 2, -1) < 0) continue;
    if (slots[1].revents != 0) echo_datagram(udp);
    if (slots[0].revents == 0) continue;
    const int fd = ::accept(streams, nullptr, nullptr);
    if (fd < 0) continue;
    if (::fork() == 0) {
      serve_connection(fd);
      std::_Exit(0);
    }
    ::close(fd);
  }
}

int serve_datagrams(const char* port, const char* count) {
  const int udp = listen_on(address_of("0.0.0.0", port, 0), SOCK_DGRAM);
  std::printf("ready\n");
  std::fflush(stdout);
  for (int i = std::atoi(count); i > 0; --i) echo_datagram(udp);
  return 0;
}

// One stream: the bytes that count. What is under way to a receiver at the end is waited for, or it
// would be in the way of what is measured next.
uint64_t stream(const Address& to, const Order& order) {
  std::vector<char> buffer(kBufferBytes);
  const bool is_sending = order.what == Order::Send;
  const int fd = connect_to(to, order);
  const Window window(order);
  Arrived here;
  while (!window.is_over()) {
    const ssize_t done = is_sending ? ::write(fd, buffer.data(), buffer.size())
                                    : ::read(fd, buffer.data(), buffer.size());
    if (done <= 0) give_up("the stream broke");
    window.count(here, done);
  }
  ::shutdown(fd, SHUT_WR);
  if (is_sending) {
    Arrived there;
    if (::recv(fd, &there, sizeof(there), MSG_WAITALL) != sizeof(there)) give_up("no answer");
    if (there.all != here.all) give_up("bytes are missing");
    here = there;
  } else {
    while (::read(fd, buffer.data(), buffer.size()) > 0) {
    }
  }
  ::close(fd);
  return here.counted;
}

void say_begin(uint64_t wait_ns) {
  const timespec wait{.tv_sec = static_cast<time_t>(wait_ns / 1'000'000'000U),
                      .tv_nsec = static_cast<long>(wait_ns % 1'000'000'000U)};
  ::nanosleep(&wait, nullptr);
  std::printf("begin\n");
  std::fflush(stdout);
}

int transfer(const Address& to, const Order& order, int streams) {
  if (order.warm_up_ns > 0 && ::fork() == 0) {
    say_begin(order.warm_up_ns);
    std::_Exit(0);
  }
  int results[2];
  if (::pipe(results) != 0) give_up("pipe");
  for (int i = 1; i < streams; ++i) {
    if (::fork() != 0) continue;
    const uint64_t bytes = stream(to, order);
    std::_Exit(::write(results[1], &bytes, sizeof(bytes)) == sizeof(bytes) ? 0 : 1);
  }
  uint64_t all = stream(to, order);
  for (int i = 1; i < streams; ++i) {
    uint64_t bytes = 0;
    if (::read(results[0], &bytes, sizeof(bytes)) != sizeof(bytes)) give_up("a stream is missing");
    all += bytes;
  }
  std::printf("%s %llu %llu\n", order.what == Order::Send ? "send" : "receive",
              static_cast<unsigned long long>(all),
              static_cast<unsigned long long>(order.length_ns));
  return 0;
}

int ping(const Address& to, double seconds) {
  const int fd = connect_to(to, Order{.what = Order::Ping});
  const uint64_t begin = now_ns();
  const uint64_t until = begin + static_cast<uint64_t>(seconds * 1e9);
  uint64_t count = 0;
  char byte = 'x';
  for (; now_ns() < until; ++count) {
    if (::write(fd, &byte, 1) != 1 || ::read(fd, &byte, 1) != 1) give_up("the connection broke");
  }
  std::printf("ping %llu %llu\n", static_cast<unsigned long long>(count),
              static_cast<unsigned long long>(now_ns() - begin));
  return 0;
}

int datagrams(const Address& to, int count, size_t bytes) {
  const int fd = open_socket(to.family(), SOCK_DGRAM);
  const timeval limit{.tv_sec = 5, .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  if (::connect(fd, to.get(), to.size) != 0) give_up("connect");
  std::vector<char> sent(bytes);
  std::vector<char> got(65536);
  int lost = 0;
  for (int i = 0; i < count; ++i) {
    for (size_t at = 0; at < bytes; ++at)
      sent[at] = static_cast<char>(i * 7 + static_cast<int>(at));
    if (::send(fd, sent.data(), bytes, 0) < 0) give_up("send");
    const ssize_t size = ::recv(fd, got.data(), got.size(), 0);
    const bool is_same =
        size == static_cast<ssize_t>(bytes) && std::equal(sent.begin(), sent.end(), got.begin());
    lost += is_same ? 0 : 1;
  }
  std::printf("udp %d %d\n", count, lost);
  return lost == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (what == "serve" && argc == 4) return serve(argv[2], argv[3]);
  if (what == "udp-serve" && argc == 4) return serve_datagrams(argv[2], argv[3]);
  if (argc < 5) {
    std::fprintf(stderr, "net_peer: see the head of net_peer.cpp\n");
    return 2;
  }
  const Address to = address_of(argv[2], argv[3], VMADDR_CID_HOST);
  if (what == "send" || what == "receive") {
    const auto ns_of = [](const char* seconds) {
      return static_cast<uint64_t>(std::atof(seconds) * 1e9);
    };
    const Order order{.what = what == "send" ? Order::Send : Order::Receive,
                      .warm_up_ns = argc > 6 ? ns_of(argv[6]) : 0,
                      .length_ns = ns_of(argv[4])};
    return transfer(to, order, argc > 5 ? std::atoi(argv[5]) : 1);
  }
  if (what == "ping") return ping(to, std::atof(argv[4]));
  if (what == "udp" && argc == 6) {
    return datagrams(to, std::atoi(argv[4]), static_cast<size_t>(std::atoi(argv[5])));
  }
  return 2;
}
