// virtio-pmem (virtio 1.2 §5.19): memory of the guest that is a file. The guest maps it and reads
// and writes it as memory; only making it durable is a request. It has no state but its queue's.
//
// Threads: as VirtioDevice says, with a loop of its own: a flush waits for the host's storage.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "virtio/device.h"
#include "virtio/pmem/backing.h"
#include "virtio/pmem/metrics.h"
#include "virtio/pmem/protocol.h"

namespace trapeze {

class PmemDevice final : public VirtioDevice {
 public:
  // `backing` must outlive the device; the guest has it at `range`.
  PmemDevice(GpaRange range, PmemBacking& backing) : range_(range), backing_(backing) {}

  VirtioType type() const override { return VirtioType::Pmem; }
  uint64_t offered_features() const override { return 0; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  uint32_t config_bytes() const override { return sizeof(pmem::Config); }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override { active_ = &state; }
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void reset() override { active_ = nullptr; }

  const PmemMetrics& metrics() const { return metrics_; }

 private:
  static constexpr std::array<uint16_t, 1> kQueueSizes{64};
  // Their flush is one: what the guest wrote before any of them was written before all are
  // answered.
  static constexpr size_t kMaxRequestsPerFlush = 64;

  bool is_flush(const Chain& chain);
  void answer(Chain& chain, uint32_t result);

  const GpaRange range_;
  PmemBacking& backing_;
  ActiveState* active_ = nullptr;
  std::vector<Chain> waiting_;
  PmemMetrics metrics_;
};

}  // namespace trapeze
