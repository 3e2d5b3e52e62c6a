// NetSender: frames of the guest, from one transmit queue to the back end, in batches. Device
// thread. Private to virtio/net.
#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "virtio/net/backend.h"
#include "virtio/net/metrics.h"
#include "virtio/queue/virt_queue.h"
#include "virtio/rate_limiter.h"

namespace trapeze {

// How a turn of a queue ended.
struct NetTurn {
  enum class End : uint8_t {
    Idle,       // nothing left to do until the driver kicks
    More,       // the turn is over, there is more
    Blocked,    // the back end has to become ready first
    Throttled,  // not before `wait_ns`
    Lost,       // the back end is gone
  };
  End end = End::Idle;
  uint64_t wait_ns = 0;
};

struct NetPath {
  uint16_t pair = 0;
  NetBackend& backend;
  RateLimiter& limiter;
  const Clock& clock;
  NetMetrics& metrics;
};

class NetSender {
 public:
  explicit NetSender(const NetPath& path) : path_(path) {}

  NetTurn serve(VirtQueue& queue);
  // The same when there is nobody to send to.
  NetTurn drop_all(VirtQueue& queue);
  void forget() { paid_ = 0; }

 private:
  static constexpr size_t kBatch = 32;
  static constexpr size_t kBatchesPerTurn = 4;

  size_t take_batch(VirtQueue& queue, NetTurn& turn);
  bool pay(const Chain& chain, NetTurn& turn);
  bool send_batch(VirtQueue& queue, size_t count, NetTurn& turn);

  NetPath path_;
  std::array<Chain, kBatch> chains_;
  std::array<NetBackend::Frame, kBatch> frames_;
  // Frames at the head of the queue that the rate limiter has let through already, but that the
  // back end did not take.
  size_t paid_ = 0;
};

}  // namespace trapeze
