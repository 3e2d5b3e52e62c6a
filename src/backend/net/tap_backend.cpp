#include "backend/net/tap_backend.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>
#include <string_view>

#include "base/log.h"
#include "virtio/net/protocol.h"

namespace trapeze {
namespace {

constexpr const char* kDevice = "/dev/net/tun";
constexpr const char* kNewName = "trapeze%d";  // the kernel puts a number in

ifreq request_for(const std::string& name, short flags) {
  ifreq request{};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = flags;
  return request;
}

// Not by /sys: that shows the network namespace in which it was mounted.
Result<void> check_existing(const std::string& name) {
  if (::if_nametoindex(name.c_str()) == 0) {
    return fail(
        "there is no interface {}; as root, make one with: ip tuntap add dev {} mode tap user USER "
        "&& ip link set {} up",
        name, name, name);
  }
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ethtool_drvinfo driver{};
  driver.cmd = ETHTOOL_GDRVINFO;
  ifreq request = request_for(name, 0);
  request.ifr_data = reinterpret_cast<char*>(&driver);
  const bool is_known = ::ioctl(socket.get(), SIOCETHTOOL, &request) == 0;
  if (!is_known || std::string_view(driver.driver) != "tun" ||
      std::string_view(driver.bus_info) != "tap") {
    return fail("{} is no tap interface", name);
  }
  return {};
}

Unexpected<Error> explain_refusal(const std::string& name, uint16_t pairs, int os_error) {
  const std::string what = name.empty() ? "a new tap interface" : name;
  switch (os_error) {
    case EPERM:
      if (name.empty()) {
        return fail(
            "may not make a tap interface; as root, make one for your user (ip tuntap add dev tap0 "
            "mode tap user USER && ip link set tap0 up) and name it: --net tap=tap0");
      }
      return fail("may not use {}: it belongs to another user (ip -d link show {})", name, name);
    case EBUSY:
      return fail("{} is in use by another program", what);
    case EINVAL:
      return fail("cannot open {} with {} queues: make it with: ip tuntap add ... multi_queue",
                  what, pairs);
    default:
      return fail("cannot open {}: {}", what, errno_text(os_error));
  }
}

unsigned tun_offloads(uint64_t offloads) {
  if ((offloads & net::kFeatureGuestCsum) == 0) return 0;
  unsigned flags = TUN_F_CSUM;
  if ((offloads & net::kFeatureGuestTso4) != 0) flags |= TUN_F_TSO4;
  if ((offloads & net::kFeatureGuestTso6) != 0) flags |= TUN_F_TSO6;
  const bool has_segments = (flags & (TUN_F_TSO4 | TUN_F_TSO6)) != 0;
  if (has_segments && (offloads & net::kFeatureGuestEcn) != 0) flags |= TUN_F_TSO_ECN;
  return flags;
}

}  // namespace

Result<std::unique_ptr<TapBackend>> TapBackend::create(const TapSettings& settings,
                                                       EventLoop& loop) {
  if (settings.name.size() >= IFNAMSIZ) {
    return fail("{}: names of interfaces have at most {} characters", settings.name, IFNAMSIZ - 1);
  }
  std::unique_ptr<TapBackend> backend(new TapBackend(loop));
  TRY(backend->open_queues(settings));
  TRY(backend->look_at_interface(settings));
  TRY(backend->open_vhost(settings.vhost));
  return backend;
}

TapBackend::~TapBackend() {
  for (const Queue& queue : queues_) {
    if (queue.is_watched) loop_.unwatch(queue.fd.get());
  }
}

Result<void> TapBackend::open_queues(const TapSettings& settings) {
  std::string name = settings.name;
  if (!name.empty()) TRY(check_existing(name));
  bool has_several = settings.pairs > 1;
  while (queues_.size() < settings.pairs) {
    Queue queue{.fd = Fd(::open(kDevice, O_RDWR | O_CLOEXEC | O_NONBLOCK))};
    if (!queue.fd.is_open()) return fail_errno("cannot open {}", kDevice);
    const auto flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                          (has_several ? IFF_MULTI_QUEUE : 0));
    ifreq request = request_for(name.empty() ? kNewName : name, flags);
    if (::ioctl(queue.fd.get(), TUNSETIFF, &request) != 0) {
      // One that was made for several queues has to be opened so.
      if (errno == EINVAL && !has_several && !name.empty()) {
        has_several = true;
        continue;
      }
      return explain_refusal(name, settings.pairs, errno);
    }
    name = request.ifr_name;
    int header_bytes = net::kHeaderBytes;
    if (::ioctl(queue.fd.get(), TUNSETVNETHDRSZ, &header_bytes) != 0) {
      return fail_errno("{}: TUNSETVNETHDRSZ", name);
    }
    queues_.push_back(std::move(queue));
  }
  info_.name = name;
  info_.pairs = settings.pairs;
  return {};
}

Result<void> TapBackend::look_at_interface(const TapSettings& settings) {
  info_.offloads = net::kHostOffloads;
  constexpr uint64_t kAllForGuest = net::kGuestOffloads;
  if (::ioctl(queues_[0].fd.get(), TUNSETOFFLOAD, tun_offloads(kAllForGuest)) == 0) {
    info_.offloads |= kAllForGuest;
  }
  set_guest_offloads(0);
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return fail_errno("{}: no socket", info_.name);
  ifreq request = request_for(info_.name, 0);
  info_.mtu = settings.mtu;
  if (!settings.mtu && ::ioctl(socket.get(), SIOCGIFMTU, &request) == 0) {
    if (request.ifr_mtu >= net::kMinMtu && request.ifr_mtu <= net::kMaxMtu) {
      info_.mtu = static_cast<uint16_t>(request.ifr_mtu);
    }
  }
  request = request_for(info_.name, 0);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) {
    return fail_errno("{}: SIOCGIFFLAGS", info_.name);
  }
  const bool is_up = (request.ifr_flags & IFF_UP) != 0;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (!is_up && ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
    log(LogLevel::Warning, "{} is down, and nothing gets through; as root: ip link set {} up",
        info_.name, info_.name);
  }
  if (settings.name.empty()) log(LogLevel::Info, "network: made the interface {}", info_.name);
  return {};
}

Result<void> TapBackend::open_vhost(TapSettings::Vhost wanted) {
  if (wanted == TapSettings::Vhost::Off) return {};
  std::vector<const Fd*> taps;
  for (const Queue& queue : queues_) taps.push_back(&queue.fd);
  auto vhost = VhostNet::create(std::move(taps));
  if (vhost) {
    vhost_ = std::move(*vhost);
    log(LogLevel::Info, "{}: with vhost-net", info_.name);
    return {};
  }
  if (wanted == TapSettings::Vhost::On) return fail("vhost=on: {}", vhost.error().message);
  log(LogLevel::Info, "{}: without vhost-net: {}", info_.name, vhost.error().message);
  return {};
}

void TapBackend::attach(NetClient* client) {
  client_ = client;
  if (client == nullptr) link_watch_.reset();
  if (vhost_ != nullptr && client != nullptr) watch_for_end();
}

// Nobody reads the tap here then. Whoever polls it, for whatever events, is woken by each frame.
void TapBackend::watch_for_end() {
  auto created = LinkWatch::create(loop_, [this] { look_for_end(); });
  if (created) {
    link_watch_ = std::move(*created);
    look_for_end();
  } else {
    watch(0, EPOLLPRI);
  }
}

void TapBackend::look_for_end() {
  if (is_lost_) return;
  pollfd tap{.fd = queues_[0].fd.get(), .events = 0, .revents = 0};
  if (::poll(&tap, 1, 0) > 0) return handle_ready(0, static_cast<uint32_t>(tap.revents));
  // One that has gone to another namespace is not told of any more.
  const bool is_here = ::if_nametoindex(info_.name.c_str()) != 0;
  if (!is_here && !queues_[0].is_watched) watch(0, EPOLLPRI);
}

bool TapBackend::watch(uint16_t pair, uint32_t events) {
  Queue& queue = queues_[pair];
  const auto watched = loop_.watch(queue.fd.get(), events,
                                   [this, pair](uint32_t ready) { handle_ready(pair, ready); });
  queue.is_watched = watched.has_value();
  return queue.is_watched;
}

void TapBackend::set_guest_offloads(uint64_t offloads) {
  // One for all queues. It was possible at the start, and is only about what the guest is given.
  [[maybe_unused]] const int done =
      ::ioctl(queues_[0].fd.get(), TUNSETOFFLOAD, tun_offloads(offloads));
}

// The kernel spreads frames over the queues that are attached.
void TapBackend::use_pairs(uint16_t pairs) {
  if (queues_.size() == 1) return;
  for (size_t i = 0; i < queues_.size(); ++i) {
    const bool is_wanted = i < pairs;
    if (queues_[i].is_attached == is_wanted) continue;
    ifreq request{};
    request.ifr_flags = is_wanted ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    if (::ioctl(queues_[i].fd.get(), TUNSETQUEUE, &request) == 0) {
      queues_[i].is_attached = is_wanted;
    }
  }
}

// HOT
NetBackend::Sent TapBackend::send(uint16_t pair, std::span<const Frame> frames) {
  Sent result;
  for (const Frame frame : frames) {
    if (::writev(queues_[pair].fd.get(), frame.data(), static_cast<int>(frame.size())) < 0) {
      if (errno == EAGAIN || errno == EINTR) {
        result.status = Status::Blocked;
        return result;
      }
      if (errno == EBADFD) {
        result.status = lose();
        return result;
      }
      // Senseless for the kernel, or the interface is down: as if it had left and got lost.
      ++result.dropped;
    }
    ++result.frames;
  }
  return result;
}

// HOT
NetBackend::Received TapBackend::receive(uint16_t pair, Frame room) {
  for (;;) {
    const ssize_t got = ::readv(queues_[pair].fd.get(), room.data(), static_cast<int>(room.size()));
    if (got >= 0) return {.bytes = static_cast<size_t>(got), .status = Status::Ok};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return {.bytes = 0, .status = Status::Blocked};
    return {.bytes = 0, .status = lose()};
  }
}

void TapBackend::want(uint16_t pair, bool receiving, bool sending) {
  if (is_lost_) return;
  Queue& queue = queues_[pair];
  const uint32_t events = (receiving ? EPOLLIN : 0U) | (sending ? EPOLLOUT : 0U);
  if (queue.is_watched) return loop_.set_events(queue.fd.get(), events);
  if (events != 0) watch(pair, events);
}

void TapBackend::handle_ready(uint16_t pair, uint32_t events) {
  const bool is_gone = (events & (EPOLLHUP | EPOLLERR)) != 0 && queues_[pair].is_attached;
  if (is_gone) lose();
  if (client_ == nullptr) return;
  if (is_gone) return client_->net_gone();
  client_->net_ready(pair, (events & EPOLLIN) != 0, (events & EPOLLOUT) != 0);
}

NetBackend::Status TapBackend::lose() {
  if (!is_lost_) {
    is_lost_ = true;
    for (Queue& queue : queues_) {
      if (queue.is_watched) loop_.unwatch(queue.fd.get());
      queue.is_watched = false;
    }
    log(LogLevel::Warning,
        "the interface {} is gone: that network card of the guest has no link any more",
        info_.name);
  }
  return Status::Lost;
}

}  // namespace trapeze
