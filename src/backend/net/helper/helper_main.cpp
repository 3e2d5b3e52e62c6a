#include "backend/net/helper/helper_main.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "backend/net/helper/confine.h"
#include "backend/net/helper/user_network.h"
#include "base/log.h"
#include "base/unix_socket.h"

namespace trapeze {
namespace {

using user_wire::PublishedPort;
using user_wire::UserNetworkOrder;

struct Order {
  UserNetworkOrder head;
  std::array<PublishedPort, user_wire::kMaxPorts> ports;
};

// Of the ring of frames for the guest: its memory, and how the VMM is woken.
using RingFds = std::array<Fd, 2>;

Result<size_t> read_order(const Fd& socket, Order& order, RingFds& ring) {
  const iovec whole{&order, sizeof(order)};
  const ssize_t got = receive_with_fds(socket.get(), {&whole, 1}, ring, 0);
  if (got < 0) return fail_errno("{} is only for trapeze itself", kNetHelperCommand);
  const auto bytes = static_cast<size_t>(got);
  if (bytes < sizeof(order.head) || order.head.magic != user_wire::kMagic ||
      order.head.ports > user_wire::kMaxPorts || !ring[0].is_open() || !ring[1].is_open() ||
      bytes != sizeof(order.head) + order.head.ports * sizeof(PublishedPort)) {
    return fail("{} is only for trapeze itself", kNetHelperCommand);
  }
  return order.head.ports;
}

Result<std::unique_ptr<UserNetwork>> set_up(Fd socket, HelperRights rights) {
  Order order;
  RingFds ring;
  const size_t ports = TRY(read_order(socket, order, ring));
  FrameRingWriter frames = TRY(FrameRingWriter::open(ring[0], std::move(ring[1])));
  const auto slirp = TRY(SlirpLibrary::load());
  auto network = TRY(UserNetwork::create(slirp, order.head, std::span(order.ports).first(ports),
                                         std::move(socket), std::move(frames)));
  if (rights == HelperRights::GiveUp) TRY(confine_helper());
  return network;
}

void report(int socket, const std::string& text) {
  // A byte in front: there are no empty messages.
  const std::string message = "!" + text.substr(0, user_wire::kMaxStatusBytes - 1);
  [[maybe_unused]] const auto sent = ::send(socket, message.data(), message.size(), MSG_NOSIGNAL);
}

}  // namespace

int run_net_helper() {
  ::prctl(PR_SET_NAME, kNetHelperCommand, 0, 0, 0);
  // They are meant for the command in the VM; our end comes with the VMM's.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE}) {
    ::signal(number, SIG_IGN);
  }
  const int socket = user_wire::kHelperSocket;
  int type = 0;
  socklen_t size = sizeof(type);
  if (::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET) {
    log(LogLevel::Error, "{} is only for trapeze itself", kNetHelperCommand);
    return 125;
  }
  // What whoever started the VMM left open by mistake.
  ::syscall(SYS_close_range, static_cast<unsigned>(socket) + 1, ~0U, 0U);
  return serve_user_network(socket, HelperRights::GiveUp);
}

int serve_user_network(int socket, HelperRights rights) {
  // For a report after a failure that has closed the other one.
  const Fd spare(::dup(socket));
  auto network = set_up(Fd(socket), rights);
  report(spare.get(), network ? std::string() : network.error().message);
  if (!network) return 125;
  (*network)->run();
  return 0;
}

}  // namespace trapeze
