// virtio-net (virtio 1.2 §5.1): a network card with one or more queue pairs and a control queue.
//
// Threads: as VirtioDevice says; the NetBackend lives on the same EventLoop. Construct and destroy
// it, and call save() and restore(), while the loop does not run or on its thread.
//
// What the guest cannot send now stays in its ring (the back end is full, the rate limiter says
// "later"); what it cannot receive now stays with the back end. Without a link, frames are dropped.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/bulk_mode.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/net/backend.h"
#include "virtio/net/metrics.h"
#include "virtio/net/protocol.h"
#include "virtio/net/receiver.h"
#include "virtio/net/sender.h"
#include "virtio/net/state.h"
#include "virtio/rate_limiter.h"
#include "virtio/served_rings.h"

namespace trapeze {

struct NetDeviceConfig {
  static constexpr uint16_t kMaxPairs = 16;
  net::MacAddress mac{};
  RateLimits send_limits;
  RateLimits receive_limits;
  bool waits_in_streams = false;  // BulkMode: for vCPUs that a doorbell stops
};

class NetDevice final : public VirtioDevice, private NetClient {
 public:
  // All must outlive the device. `backend` has at most kMaxPairs.
  NetDevice(const NetDeviceConfig& config, NetBackend& backend, EventLoop& loop,
            const Clock& clock);
  ~NetDevice() override;

  VirtioType type() const override { return VirtioType::Net; }
  uint64_t offered_features() const override { return features_; }
  std::span<const uint16_t> queue_max_sizes() const override { return queue_sizes_; }
  // That a frame was taken and that the answer is there are mostly news of the same time; two
  // vectors that wait at once cost a guest on AMD-V three more exits. Pairs are for more CPUs.
  bool has_one_interrupt() const override { return pair_count_ == 1; }
  uint32_t config_bytes() const override { return net::kConfigBytes; }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void interrupts_moved() override { rings_.interrupts_moved(); }
  void reset() override;

  const NetMetrics& metrics() const { return metrics_; }
  bool has_link() const { return has_link_; }
  uint16_t pairs_in_use() const { return pairs_in_use_; }

  // save() before DeviceHost::save_queues(): it puts back the buffers that it holds, and rings that
  // the back end works on stand still until resume() (or a reset).
  NetState save();
  void resume();
  // Before the transport's restore(), which activates the device.
  void restore(const NetState& state);

 private:
  enum class Direction : uint8_t { Receive, Send };
  struct Pair {
    explicit Pair(const NetPath& sending, const NetPath& receiving)
        : sender(sending), receiver(receiving) {}
    NetSender sender;
    NetReceiver receiver;
    // What the back end was asked to tell.
    bool wants_receive = false;
    bool wants_send = false;
    bool is_receive_throttled = false;
    bool is_send_throttled = false;
  };

  // For the driver, as one value each: written by the loop, read by vCPUs; alone, so relaxed.
  void set_mac(const net::MacAddress& mac);
  net::MacAddress mac() const;
  void set_status(uint16_t status) { status_.store(status, std::memory_order_relaxed); }

  uint16_t control_queue() const;
  bool is_in_use(uint16_t pair) const { return pair < pairs_in_use_; }
  bool serve_send(uint16_t pair);
  void serve_receive(uint16_t pair);
  void want(uint16_t index, bool receiving, bool sending);
  void throttle(Direction direction, uint16_t pair, uint64_t wait_ns);
  void lose_link();

  void start_rings();

  // The control queue (control.cpp).
  bool serve_control(uint16_t index);
  uint8_t handle_command(const Chain& chain);
  uint8_t set_mac_address(std::span<const std::byte> data);
  uint8_t set_pairs(std::span<const std::byte> data);
  uint8_t set_offloads(std::span<const std::byte> data);
  void use_pairs(uint16_t pairs);
  void use_offloads(uint64_t offloads);

  // NetClient.
  void net_ready(uint16_t pair, bool can_receive, bool can_send) override;
  void net_gone() override { lose_link(); }

  const net::MacAddress own_mac_;
  NetBackend& backend_;
  EventLoop& loop_;
  const uint16_t pair_count_;
  const std::vector<uint16_t> queue_sizes_;
  const uint64_t features_;
  RateLimiter send_limiter_;
  RateLimiter receive_limiter_;
  std::optional<EventLoop::TimerId> throttle_timers_[2];  // by Direction
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::atomic<uint64_t> mac_{0};
  std::atomic<uint16_t> status_{net::kStatusLinkUp};
  bool has_link_ = true;
  ActiveState* active_ = nullptr;
  uint16_t pairs_in_use_ = 1;
  uint64_t guest_offloads_ = 0;
  std::optional<NetState> restored_;  // from restore() to activate()
  Chain control_chain_;
  ServedRings rings_;  // while the back end works on them itself
  NetMetrics metrics_;
  const bool waits_in_streams_;
  BulkMode bulk_;
};

}  // namespace trapeze
