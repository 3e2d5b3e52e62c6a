#include "vm/nets.h"

#include "backend/net/helper/helper_main.h"

namespace trapeze {
namespace {

Result<HelperProcess> launch_helper(const Fd& socket) {
  return HelperProcess::start("/proc/self/exe", kNetHelperCommand, socket);
}

}  // namespace

std::string to_string(const net::MacAddress& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3],
                     mac[4], mac[5]);
}

std::string network_argument(const NetConfig& config) {
  const std::string head = "trapeze.net=" + to_string(config.mac) + ",";
  switch (config.guest.kind) {
    case GuestAddress::Kind::None:
      return head + "none";
    case GuestAddress::Kind::Dhcp:
      return head + "dhcp";
    case GuestAddress::Kind::Static:
      return head + config.guest.address + "," + config.guest.gateway + "," + config.guest.dns;
  }
  return head + "none";
}

Result<void> Nets::open(const std::vector<NetConfig>& configs, PciRoot& pci) {
  if (configs.size() > kMaxNets) {
    return fail("{} network cards: a machine has at most {}", configs.size(), kMaxNets);
  }
  for (const NetConfig& config : configs) TRY(add(config, pci));
  return {};
}

Result<void> Nets::add(const NetConfig& config, PciRoot& pci) {
  Unit& unit = units_.emplace_back();
  unit.option = config.option;
  const std::string name = fmt::format("net{}", units_.size() - 1);
  unit.thread = TRY(EventLoopThread::create(name));
  EventLoop& loop = unit.thread->loop();
  if (config.kind == NetConfig::Kind::Tap) {
    TapSettings settings = config.tap;
    settings.vhost = vhost_for(config);
    auto tap = TapBackend::create(settings, loop);
    if (!tap) return fail("{}: {}", config.option, tap.error().message);
    unit.backend = std::move(*tap);
  } else {
    auto user = UserBackend::create(config.user, launch_helper, loop);
    if (!user) return fail("{}: {}", config.option, user.error().message);
    unit.user = user->get();
    unit.backend = std::move(*user);
  }
  loop.call([&] {
    unit.device =
        std::make_unique<NetDevice>(NetDeviceConfig{.mac = config.mac,
                                                    .send_limits = config.send_limits,
                                                    .receive_limits = config.receive_limits,
                                                    .waits_in_streams = is_kvm_},
                                    *unit.backend, loop, clock_);
  });
  unit.transport = TRY(VirtioPci::create_in(pci, "virtio-" + name, *unit.device, memory_, loop));
  return {};
}

// Limits are the device's, and what the kernel does passes it by.
TapSettings::Vhost Nets::vhost_for(const NetConfig& config) const {
  if (config.vhost == NetConfig::Vhost::On) return TapSettings::Vhost::On;
  const bool is_limited =
      config.send_limits != RateLimits{} || config.receive_limits != RateLimits{};
  const bool is_wanted = config.vhost == NetConfig::Vhost::Auto && is_kvm_ && !is_limited;
  return is_wanted ? TapSettings::Vhost::IfPossible : TapSettings::Vhost::Off;
}

Result<void> Nets::wait_until_ready() {
  for (Unit& unit : units_) {
    if (unit.user == nullptr) continue;
    const auto ready = unit.user->wait_until_ready();
    if (!ready) return fail("{}: {}", unit.option, ready.error().message);
  }
  return {};
}

Nets::~Nets() {
  for (Unit& unit : units_) {
    unit.transport.reset();
    if (unit.thread == nullptr) continue;
    unit.thread->loop().call([&] {
      unit.device.reset();
      unit.backend.reset();
    });
  }
}

}  // namespace trapeze
