// Pmems: the virtio-pmem devices of a VM. Their files are opened before guest memory exists,
// because they are a part of it; the devices come later, each with a thread of its own, where
// flushes wait.
//
// Threads: as Disks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/pmem/pmem_file.h"
#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/pmem/device.h"
#include "virtio/transport/pci.h"

namespace trapeze {

struct PmemConfig {
  std::string path;
  bool is_read_only = false;  // the file stays as it is; what the guest writes is forgotten
};

class Pmems {
 public:
  static constexpr size_t kMaxPmems = 8;

  // Opens the files and places them from `start` on.
  static Result<std::unique_ptr<Pmems>> open(const std::vector<PmemConfig>& configs, Gpa start);
  ~Pmems();
  Pmems(const Pmems&) = delete;
  Pmems& operator=(const Pmems&) = delete;

  Gpa end() const { return units_.back().range.end(); }
  Result<void> map_into(GuestMemory& memory) const;
  // Must outlive `pci`, also when this fails half-way.
  Result<void> add_devices(GuestMemory& memory, PciRoot& pci);

 private:
  struct Unit {
    std::unique_ptr<PmemFile> file;
    GpaRange range;
    std::unique_ptr<EventLoopThread> thread;
    std::unique_ptr<PmemDevice> device;
    std::unique_ptr<VirtioPci> transport;
  };

  Pmems() = default;
  std::vector<Unit> units_;
};

}  // namespace trapeze
