// virtio-blk (virtio 1.2 §5.2): a disk.
//
// Threads: as VirtioDevice says; the Disk lives on the same EventLoop. Construct and destroy it,
// and call save() and restore(), while the loop does not run or on its thread.
//
// A request lives from pop to push_used in a Slot. There are no more of them than descriptors, so a
// guest bounds only its own memory. Requests that the rate limiter holds back stay in the ring.
//
// A short request that comes alone, to a disk that has nothing else to do, is run by the vCPU that
// kicks if the host's page cache can serve it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "virtio/block/disk.h"
#include "virtio/block/metrics.h"
#include "virtio/block/protocol.h"
#include "virtio/block/state.h"
#include "virtio/device.h"
#include "virtio/rate_limiter.h"

namespace trapeze {

struct BlockConfig {
  static constexpr uint16_t kMaxQueues = 32;
  std::string serial;   // cut to 20 bytes
  uint16_t queues = 1;  // 1 to kMaxQueues
  RateLimits limits;
};

class BlockDevice final : public VirtioDevice, private DiskClient {
 public:
  // All must outlive the device.
  BlockDevice(const BlockConfig& config, Disk& disk, EventLoop& loop, const Clock& clock);
  ~BlockDevice() override;

  VirtioType type() const override { return VirtioType::Block; }
  uint64_t offered_features() const override { return features_; }
  std::span<const uint16_t> queue_max_sizes() const override { return queue_sizes_; }
  uint32_t config_bytes() const override { return block::kConfigBytes; }
  void read_config(uint32_t offset, std::span<std::byte> to) override;
  void write_config(uint32_t offset, std::span<const std::byte> from) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  bool takes_vcpu_kicks(uint16_t /*queue*/) const override { return !limiter_.is_limited(); }
  [[nodiscard]] bool on_vcpu_kick(uint16_t queue) override;
  void reset() override;

  const BlockMetrics& metrics() const { return metrics_; }

  // save() before DeviceHost::save_queues(): it waits for what is under way and gives it back.
  BlockState save();
  // Before the transport's restore(), which activates the device.
  void restore(const BlockState& state);

 private:
  struct Slot;
  enum class Parsed : uint8_t { Submit, Answered, Broken, Throttled };

  Slot& acquire();
  void release(Slot& slot);
  bool handle(uint16_t queue, Chain& chain);
  void handle_now(uint16_t queue, Chain& chain);
  void submit_left();
  bool is_idle() const { return free_slots_.size() == slots_.size(); }
  Parsed parse(VirtQueue& queue, Slot& slot);
  Parsed parse_data(Slot& slot, uint64_t sector, bool is_write);
  Parsed parse_segment(Slot& slot, bool is_discard);
  Parsed answer_id(Slot& slot);
  Parsed answer(Slot& slot, block::Status status);
  Parsed refuse(Slot& slot, block::Status status);
  bool is_within_disk(uint64_t sector, uint64_t bytes) const;
  bool must_be_durable() const;
  bool throttle(const Slot& slot);
  void finish(Slot& slot, block::Status status, uint64_t written);
  void notify();

  // DiskClient.
  void disk_done(DiskRequest& request, int os_error) override;
  void disk_done_end() override { notify(); }

  Disk& disk_;
  EventLoop& loop_;
  const Clock& clock_;
  const std::string serial_;
  const std::vector<uint16_t> queue_sizes_;
  const uint64_t features_;
  block::Config config_;                  // but for `writeback`
  std::atomic<bool> is_writeback_{true};  // written by vCPUs, read by the loop; alone, so relaxed
  RateLimiter limiter_;
  std::optional<EventLoop::TimerId> throttle_timer_;
  ActiveState* active_ = nullptr;
  Chain chain_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_slots_;
  uint32_t alone_ = 0;             // requests that came alone, in a row, up to kAloneToTrust
  Slot* left_ = nullptr;           // what a vCPU took from the ring and the loop is to submit
  uint64_t queues_to_notify_ = 0;  // bits
  uint64_t queues_throttled_ = 0;  // bits
  BlockMetrics metrics_;
  LogLimiter log_limiter_;
};

}  // namespace trapeze
