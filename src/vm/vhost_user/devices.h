// VhostUsers: the devices of a VM whose work other processes do (vhost-user), each with a thread
// that passes their requests on.
//
// Threads: created and destroyed by the VM's owner, not on a device's thread. Each device and its
// back end's port live on the loop of their thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/vhost_user/socket_backend.h"
#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/transport/pci.h"
#include "virtio/vhost_user/device.h"
#include "virtio/vhost_user/model.h"

namespace trapeze {

struct VhostUserConfig {
  enum class Kind : uint8_t { Block, Fs, Net };
  std::string option;  // what the administrator wrote, for messages: "--vhost-user blk:/run/disk"
  Kind kind = Kind::Block;
  std::string path;
  VhostUserBlockSettings block;
  std::string tag;               // Fs
  std::array<uint8_t, 6> mac{};  // Net
};

class VhostUsers {
 public:
  static constexpr size_t kMaxDevices = 16;  // the bus has 32 places, and others live there

  // Must outlive the devices, and be shared.
  explicit VhostUsers(GuestMemory& memory) : memory_(memory) {}
  ~VhostUsers();
  VhostUsers(const VhostUsers&) = delete;
  VhostUsers& operator=(const VhostUsers&) = delete;

  // Connects all of `configs` and puts them on `pci`, in their order; once. The devices must
  // outlive `pci`, also when this fails half-way.
  Result<void> open(const std::vector<VhostUserConfig>& configs, PciRoot& pci);

 private:
  struct Unit {
    std::unique_ptr<EventLoopThread> thread;
    std::unique_ptr<SocketBackend> backend;
    std::unique_ptr<VhostUserDevice> device;
    std::unique_ptr<VirtioPci> transport;
  };

  Result<void> add(const VhostUserConfig& config, PciRoot& pci);

  GuestMemory& memory_;
  std::vector<Unit> units_;
};

}  // namespace trapeze
