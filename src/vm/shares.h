// Shares: the virtio-fs devices of a VM, with the threads that serve them.
//
// Threads: created and destroyed by the VM's owner, not on a share's thread. Each share has a
// thread of its own, on whose loop its device and its server live: what the host's storage makes it
// wait for holds up that share alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/fs/fuse_server.h"
#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/fs/device.h"
#include "virtio/transport/pci.h"

namespace trapeze {

struct ShareConfig {
  std::string option;  // what the administrator wrote before the path, for messages: "--share"
  std::string host_path;
  std::string guest_path;  // absolute; empty: it is not mounted there by the agent
  std::string tag;
  bool is_read_only = false;
  bool is_static = false;  // FolderConfig
};

class Shares {
 public:
  static constexpr size_t kMaxShares = 16;  // the bus has 32 places, and other devices live there

  // Must outlive the shares.
  explicit Shares(GuestMemory& memory) : memory_(memory) {}
  ~Shares();
  Shares(const Shares&) = delete;
  Shares& operator=(const Shares&) = delete;

  // Opens all of `configs` and puts them on `pci`; once. The shares must outlive `pci`, also when
  // this fails half-way.
  Result<void> open(const std::vector<ShareConfig>& configs, PciRoot& pci);

 private:
  struct Unit {
    std::unique_ptr<EventLoopThread> thread;
    std::unique_ptr<FuseServer> server;
    std::unique_ptr<FsDevice> device;
    std::unique_ptr<VirtioPci> transport;
  };

  Result<void> add(const ShareConfig& config, const FolderLimits& limits, PciRoot& pci);

  GuestMemory& memory_;
  std::vector<Unit> units_;
};

// That no two of them are, on the host or in the guest, the same folder or one inside the other;
// the message names both. Paths on the host must exist.
Result<void> check_nesting(const std::vector<ShareConfig>& configs);

}  // namespace trapeze
