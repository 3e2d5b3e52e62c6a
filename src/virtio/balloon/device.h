// virtio-balloon (virtio 1.2 §5.5): the guest gives memory back to the host: as much as it is asked
// for (the balloon), and whatever it has no use for just now (free page reporting). What is given
// back reads as zeroes, and costs the host memory again when the guest writes to it.
//
// Threads: as VirtioDevice says, except where noted. Construct and destroy it, and call save() and
// restore(), while the loop does not run or on its thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "virtio/balloon/metrics.h"
#include "virtio/balloon/protocol.h"
#include "virtio/balloon/state.h"
#include "virtio/device.h"

namespace trapeze {

// By StatTag; nothing where the guest told nothing.
using BalloonStats = std::array<std::optional<uint64_t>, balloon::kStatTags>;

class BalloonDevice final : public VirtioDevice {
 public:
  using StatsHandler = std::function<void(const BalloonStats&)>;

  explicit BalloonDevice(uint64_t target_bytes) { set_target(target_bytes); }

  VirtioType type() const override { return VirtioType::Balloon; }
  uint64_t offered_features() const override {
    return balloon::kFeatureStats | balloon::kFeatureDeflateOnOom | balloon::kFeaturePagePoison |
           balloon::kFeatureReporting;
  }
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  uint32_t config_bytes() const override { return sizeof(balloon::Config); }
  void read_config(uint32_t offset, std::span<std::byte> to) override;
  void write_config(uint32_t offset, std::span<const std::byte> from) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void reset() override;

  // Loop thread. How much the balloon should have; the guest gives it in its own time. Whole MiB
  // are not needed, parts of a page are cut off.
  void set_target(uint64_t bytes);
  uint64_t target_bytes() const { return load(target_pages_) * balloon::kPageBytes; }
  // As the driver says.
  uint64_t actual_bytes() const { return load(actual_pages_) * balloon::kPageBytes; }

  // Loop thread. Asks the guest for new statistics; `on_stats` is called when they come, if they
  // come. False: there is nobody to ask (no driver, or it still works on the last answer).
  bool request_stats(StatsHandler on_stats);

  bool is_active() const { return active_ != nullptr; }
  const BalloonMetrics& metrics() const { return metrics_; }
  BalloonState save() const;
  // Before the transport's restore(), which activates the device.
  void restore(const BalloonState& state);

 private:
  static constexpr std::array<uint16_t, 4> kQueueSizes{128, 128, 2, 64};
  // A driver's requests have 256 page numbers at most, or blocks that together are no more than its
  // RAM. One that lies must not keep the loop busy.
  static constexpr size_t kPagesPerPart = 256;
  static constexpr size_t kMaxPagesPerChain = 64 * 1024;
  static constexpr uint16_t kMaxChainsPerTurn = 8;
  static constexpr uint64_t kMaxStatsBytes = 64 * sizeof(balloon::Stat);

  static uint64_t load(const std::atomic<uint32_t>& value) {
    return value.load(std::memory_order_relaxed);
  }
  bool has_feature(uint64_t feature) const { return active_->has_feature(feature); }
  bool is_stats_queue(uint16_t index) const;
  bool is_reporting_queue(uint16_t index) const;
  void inflate(const Chain& chain);
  void give_back_pages(std::span<uint32_t> pages);
  void give_back_blocks(const Chain& chain);
  bool take_stats(uint16_t index);
  void read_stats(const Chain& chain);

  // Read and written by vCPUs, too. Each stands for itself.
  std::atomic<uint32_t> target_pages_{0};
  std::atomic<uint32_t> actual_pages_{0};
  std::atomic<uint32_t> poison_value_{0};
  ActiveState* active_ = nullptr;
  Chain chain_;
  Chain stats_chain_;  // the guest's buffer, kept until statistics are wanted
  bool has_stats_buffer_ = false;
  StatsHandler on_stats_;
  BalloonMetrics metrics_;
};

}  // namespace trapeze
