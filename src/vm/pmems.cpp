#include "vm/pmems.h"

namespace trapeze {

Result<std::unique_ptr<Pmems>> Pmems::open(const std::vector<PmemConfig>& configs, Gpa start) {
  if (configs.size() > kMaxPmems) {
    return fail("{} times --pmem: a machine has at most {}", configs.size(), kMaxPmems);
  }
  std::unique_ptr<Pmems> pmems(new Pmems());
  for (const PmemConfig& config : configs) {
    auto file = PmemFile::open(
        config.path, config.is_read_only ? ImageAccess::ReadOnly : ImageAccess::ReadWrite);
    if (!file) return fail("--pmem {}", file.error().message);
    constexpr uint64_t kMaxBytes = 1 * TiB;
    if ((*file)->size_bytes() > kMaxBytes) {
      return fail("--pmem {}: {} GiB; at most {} GiB can be mapped", config.path,
                  (*file)->size_bytes() / GiB, kMaxBytes / GiB);
    }
    Unit& unit = pmems->units_.emplace_back();
    unit.range = {start, (*file)->size_bytes()};
    unit.file = std::move(*file);
    start = unit.range.end();  // a multiple of what Linux wants, as each size is
  }
  return pmems;
}

Result<void> Pmems::map_into(GuestMemory& memory) const {
  for (const Unit& unit : units_) {
    const auto sharing = unit.file->access() == ImageAccess::ReadOnly
                             ? GuestMemory::FileSharing::CopyOnWrite
                             : GuestMemory::FileSharing::Shared;
    TRY(memory.add_file(unit.range, unit.file->fd(), sharing));
  }
  return {};
}

Result<void> Pmems::add_devices(GuestMemory& memory, PciRoot& pci) {
  for (size_t i = 0; i < units_.size(); ++i) {
    Unit& unit = units_[i];
    unit.thread = TRY(EventLoopThread::create(fmt::format("pmem{}", i)));
    unit.device = std::make_unique<PmemDevice>(unit.range, *unit.file);
    unit.transport = TRY(VirtioPci::create_in(pci, fmt::format("virtio-pmem{}", i), *unit.device,
                                              memory, unit.thread->loop()));
  }
  return {};
}

Pmems::~Pmems() {
  for (Unit& unit : units_) unit.transport.reset();
}

}  // namespace trapeze
