// Nets: the virtio-net devices of a VM, each with a thread that serves it.
//
// Threads: created and destroyed by the VM's owner, not on a card's thread. Each device and its
// back end live on the loop of their thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/net/tap_backend.h"
#include "backend/net/user_backend.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/net/device.h"
#include "virtio/transport/pci.h"

namespace trapeze {

// What the agent in the guest does with its end.
struct GuestAddress {
  enum class Kind : uint8_t { None, Dhcp, Static };
  Kind kind = Kind::None;
  std::string address;  // A.B.C.D/LEN
  std::string gateway;  // may be empty, as the next
  std::string dns;
};

struct NetConfig {
  enum class Kind : uint8_t { User, Tap };
  std::string option;  // what the administrator wrote, for messages: "--net tap=tap0"
  Kind kind = Kind::User;
  UserNetSettings user;
  TapSettings tap;
  enum class Vhost : uint8_t { Auto, Off, On };
  Vhost vhost = Vhost::Auto;
  net::MacAddress mac{};
  RateLimits send_limits;
  RateLimits receive_limits;
  GuestAddress guest;
};

std::string to_string(const net::MacAddress& mac);
// For the kit's init (guest/init/network.h), on the kernel's command line.
std::string network_argument(const NetConfig& config);

class Nets {
 public:
  static constexpr size_t kMaxNets = 8;

  // Both must outlive the cards. `is_kvm`: vhost-net is taken where nothing else is said and it is
  // possible, and doorbells stop a vCPU.
  Nets(GuestMemory& memory, const Clock& clock, bool is_kvm)
      : memory_(memory), clock_(clock), is_kvm_(is_kvm) {}
  ~Nets();
  Nets(const Nets&) = delete;
  Nets& operator=(const Nets&) = delete;

  // Opens all of `configs` and puts them on `pci`, in their order; once. The cards must outlive
  // `pci`, also when this fails half-way.
  Result<void> open(const std::vector<NetConfig>& configs, PciRoot& pci);
  // Waits for what open() has begun.
  Result<void> wait_until_ready();

 private:
  struct Unit {
    std::string option;
    std::unique_ptr<EventLoopThread> thread;
    std::unique_ptr<NetBackend> backend;
    UserBackend* user = nullptr;  // the same, where it is one
    std::unique_ptr<NetDevice> device;
    std::unique_ptr<VirtioPci> transport;
  };

  Result<void> add(const NetConfig& config, PciRoot& pci);
  TapSettings::Vhost vhost_for(const NetConfig& config) const;

  GuestMemory& memory_;
  const Clock& clock_;
  const bool is_kvm_;
  std::vector<Unit> units_;
};

}  // namespace trapeze
