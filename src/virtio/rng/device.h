// virtio-rng (virtio 1.2 §5.4): entropy for the guest. It has no state but its queue's.
#pragma once

#include <array>
#include <cstdint>

#include "base/units.h"
#include "virtio/device.h"
#include "virtio/rng/entropy_source.h"
#include "virtio/rng/metrics.h"

namespace trapeze {

class RngDevice final : public VirtioDevice {
 public:
  // `source` must outlive the device.
  explicit RngDevice(EntropySource& source) : source_(source) {}

  VirtioType type() const override { return VirtioType::Entropy; }
  uint64_t offered_features() const override { return 0; }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  uint32_t config_bytes() const override { return 0; }
  void read_config(uint32_t /*offset*/, std::span<std::byte> /*to*/) override {}

  void activate(ActiveState& state) override { active_ = &state; }
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void reset() override { active_ = nullptr; }

  const RngMetrics& metrics() const { return metrics_; }

 private:
  static constexpr std::array<uint16_t, 1> kQueueSizes{64};
  // Descriptors may overlap, so a chain can claim far more bytes than the guest has RAM; and random
  // bytes cost host time.
  static constexpr uint64_t kMaxBytesPerChain = 64 * KiB;
  static constexpr uint16_t kMaxChainsPerTurn = 16;

  uint64_t fill(Chain& chain);

  EntropySource& source_;
  ActiveState* active_ = nullptr;
  Chain chain_;
  RngMetrics metrics_;
};

}  // namespace trapeze
