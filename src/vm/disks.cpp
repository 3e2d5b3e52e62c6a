#include "vm/disks.h"

#include <algorithm>

namespace trapeze {

Result<void> Disks::open(const std::vector<DiskConfig>& configs, uint32_t threads, PciRoot& pci) {
  if (configs.size() > kMaxDisks) {
    return fail("{} disks: a machine has at most {}", configs.size(), kMaxDisks);
  }
  const size_t count = threads == 0 ? configs.size() : std::min<size_t>(threads, configs.size());
  for (size_t i = 0; i < count; ++i) {
    threads_.push_back(TRY(EventLoopThread::create(fmt::format("disk{}", i))));
  }
  for (size_t i = 0; i < configs.size(); ++i) {
    TRY(add(configs[i], threads_[i % count]->loop(), pci));
  }
  return {};
}

Result<void> Disks::add(const DiskConfig& config, EventLoop& loop, PciRoot& pci) {
  Unit& unit = units_.emplace_back();
  unit.loop = &loop;
  Result<void> opened;
  loop.call([&] {
    auto disk = open_disk(config.source, loop);
    if (!disk) {
      opened = fail("{} {}", config.option, disk.error().message);
      return;
    }
    unit.disk = std::move(*disk);
    unit.device = std::make_unique<BlockDevice>(
        BlockConfig{.serial = config.serial, .queues = config.queues, .limits = config.limits},
        *unit.disk, loop, clock_);
  });
  TRY(std::move(opened));
  unit.transport = TRY(VirtioPci::create_in(pci, fmt::format("virtio-blk{}", units_.size() - 1),
                                            *unit.device, memory_, loop));
  return {};
}

void Disks::commit() {
  for (Unit& unit : units_) {
    unit.loop->call([&] { unit.disk->commit(); });
  }
}

Disks::~Disks() {
  for (Unit& unit : units_) {
    unit.transport.reset();
    unit.loop->call([&] {
      unit.device.reset();
      unit.disk.reset();  // writes what is left to write
    });
  }
}

}  // namespace trapeze
