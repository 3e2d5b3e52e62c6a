// VirtQueue: the device's side of one split virtqueue (virtio 1.2 §2.7), over guest RAM.
//
// Threads: one thread at a time, the device's (DeviceHost takes care). The driver's vCPUs work on
// the rings at the same time; each access to a shared index is one atomic access with the order
// that §2.7.13 and §2.7.14 ask for.
//
// The driver is hostile: what it gets wrong makes the queue broken for good (until the device is
// reset), and a broken queue is empty and silent. Nothing here takes time or memory beyond the size
// of the queue.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "memory/guest_memory.h"
#include "virtio/queue/chain.h"
#include "virtio/queue/queue_fault.h"

namespace trapeze {

inline constexpr uint16_t kMaxQueueSize = 32768;  // §2.7

// Where the driver put a queue.
struct QueueConfig {
  uint16_t size = 0;
  Gpa desc;
  Gpa avail;  // "driver area"
  Gpa used;   // "device area"
  bool operator==(const QueueConfig&) const = default;
};

struct QueueFeatures {
  bool event_idx = false;  // VIRTIO_F_EVENT_IDX
  bool indirect = false;   // VIRTIO_F_INDIRECT_DESC
  bool operator==(const QueueFeatures&) const = default;
};

// Everything that a snapshot needs; the rings themselves are in guest RAM.
struct QueueState {
  QueueConfig config;
  QueueFeatures features;
  uint16_t next_avail = 0;      // next available entry to take
  uint16_t next_used = 0;       // next used entry to fill
  uint16_t signalled_used = 0;  // next_used at the last decision about an interrupt
  bool are_kicks_allowed = true;
  QueueFault fault = QueueFault::None;
  bool operator==(const QueueState&) const = default;
};

class VirtQueue {
 public:
  // Called once, when the queue breaks.
  using FaultHandler = std::function<void(QueueFault)>;

  // `memory` must outlive the queue.
  explicit VirtQueue(GuestMemory& memory, FaultHandler on_fault = {})
      : memory_(&memory), on_fault_(std::move(on_fault)) {}

  // Takes a queue into use from the start. A refused configuration leaves the queue broken.
  QueueFault configure(const QueueConfig& config, QueueFeatures features, uint16_t max_size);
  // Continues a saved queue; the state came from save(), the addresses are checked again.
  QueueFault restore(const QueueState& state);
  QueueState save() const;

  uint16_t size() const { return state_.config.size; }
  QueueFault fault() const { return state_.fault; }
  bool is_broken() const { return state_.fault != QueueFault::None; }

  // Takes the next available chain; false when there is none (or the queue is broken).
  bool pop(Chain& chain);
  // Puts the chain that was popped last back, as if it had never been taken. Only when no later
  // chain was popped and it was not pushed.
  void undo_pop();
  // Available entries not yet taken; 0 when broken.
  uint16_t pending();
  // Gives a chain back. `len` is the number of bytes written from the start of its writable part
  // (§2.7.8); it is cut to that part's length. Chains may be given back in any order.
  void push_used(Chain& chain, uint64_t len) {
    fill_used(chain, len);
    publish_used();
  }
  // The two halves: several chains that the driver must see all at once (mergeable buffers of a
  // frame, §5.1.6.4) are filled one by one and published together.
  void fill_used(Chain& chain, uint64_t len);
  void publish_used();

  // Whether the driver wants an interrupt for what was pushed since the last call (§2.7.7.2,
  // §2.7.10). Ask once after a batch.
  bool needs_interrupt();
  // Asks the driver for no kicks / for a kick with the next buffer. They are hints: kicks may come
  // at any time. allow_kicks() says whether buffers are pending already: then no kick may come for
  // them, and the device must take them now.
  void suppress_kicks();
  [[nodiscard]] bool allow_kicks() { return allow_kicks_after(1); }
  // The same with the `buffers`-th buffer from now, at most half of the queue, where the driver can
  // do that (event indices). For fewer no kick may ever come: the device looks for them itself.
  [[nodiscard]] bool allow_kicks_after(uint16_t buffers);

  // Marks the queue as broken, for rules of a device type that the queue does not know.
  void mark_broken(QueueFault fault);

 private:
  friend class ChainWalk;
  QueueFault map_rings(const QueueConfig& config, uint16_t max_size);
  std::optional<uint16_t> pop_head();
  uint16_t load_avail_idx() const;
  uint16_t in_flight() const { return static_cast<uint16_t>(state_.next_avail - state_.next_used); }
  uint16_t mask() const { return static_cast<uint16_t>(state_.config.size - 1); }

  GuestMemory* memory_;
  FaultHandler on_fault_;
  QueueState state_;
  // The rings, in guest RAM. Valid unless broken.
  std::byte* desc_ = nullptr;
  std::byte* avail_ = nullptr;
  std::byte* used_ = nullptr;
};

// The loop around pop: takes up to `max_chains`, with kicks suppressed meanwhile, and closes the
// gap between the last look and allowing kicks again. `handle(chain)` gives the chain back or keeps
// it and returns true to go on; false means that the device cannot take more now: `chain` is then
// put back, and the device calls again later without waiting for a kick.
// Returns true when it stopped at `max_chains` with work left, so that one busy queue cannot keep a
// thread for itself: the caller comes back after others had their turn. Behind it the driver kicks
// with the `kicks_after`-th buffer (VirtQueue::allow_kicks_after).
template <typename Handle>
[[nodiscard]] bool serve(VirtQueue& queue, Chain& chain, uint16_t max_chains, Handle&& handle,
                         uint16_t kicks_after = 1) {
  uint16_t served = 0;
  queue.suppress_kicks();
  do {
    while (queue.pop(chain)) {
      if (!handle(chain)) {
        queue.undo_pop();
        return false;
      }
      if (++served == max_chains) return true;
    }
  } while (queue.allow_kicks_after(kicks_after));
  return false;
}

// The same for VirtioDevice::on_vcpu_kick(): takes the one chain that is there, if is_short(chain).
// True: nothing is left, the next buffer brings a kick. False: the queue is for the loop; a queue
// with more than one chain is, too, which is better served while the vCPU goes on.
template <typename IsShort, typename Handle>
[[nodiscard]] bool serve_one(VirtQueue& queue, Chain& chain, IsShort&& is_short, Handle&& handle) {
  if (queue.pending() > 1) return false;
  if (queue.pop(chain)) {
    if (!is_short(chain)) {
      queue.undo_pop();
      return false;
    }
    handle(chain);
  }
  return !queue.allow_kicks();
}

}  // namespace trapeze
