// Disks: the virtio-blk devices of a VM, with the threads that serve them.
//
// Threads: created and destroyed by the VM's owner, not on a disk's thread. Each device, its back
// end and its completions live on the loop of one of the threads; with as many threads as disks
// each has its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/disk/open_disk.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/block/device.h"
#include "virtio/transport/pci.h"

namespace trapeze {

struct DiskConfig {
  std::string option;  // what the administrator wrote before the path, for messages: "--disk"
  DiskSettings source;
  std::string serial;
  uint16_t queues = 1;
  RateLimits limits;
};

class Disks {
 public:
  static constexpr size_t kMaxDisks = 24;  // the bus has 32 places, and other devices live there

  // Both must outlive the disks.
  Disks(GuestMemory& memory, const Clock& clock) : memory_(memory), clock_(clock) {}
  ~Disks();
  Disks(const Disks&) = delete;
  Disks& operator=(const Disks&) = delete;

  // Opens all of `configs` and puts them on `pci`, in their order; once. `threads` 0: one for each.
  // The disks must outlive `pci`, also when this fails half-way.
  Result<void> open(const std::vector<DiskConfig>& configs, uint32_t threads, PciRoot& pci);
  // The machine starts: overlay files that open() made are to stay.
  void commit();

 private:
  struct Unit {
    EventLoop* loop = nullptr;
    std::unique_ptr<Disk> disk;
    std::unique_ptr<BlockDevice> device;
    std::unique_ptr<VirtioPci> transport;
  };

  Result<void> add(const DiskConfig& config, EventLoop& loop, PciRoot& pci);

  GuestMemory& memory_;
  const Clock& clock_;
  std::vector<std::unique_ptr<EventLoopThread>> threads_;
  std::vector<Unit> units_;
};

}  // namespace trapeze
