#include "virtio/queue/virt_queue.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "virtio/queue/chain_walk.h"
#include "virtio/queue/split_ring.h"

namespace trapeze {

using split_ring::load16;
using split_ring::store16;

QueueFault VirtQueue::map_rings(const QueueConfig& config, uint16_t max_size) {
  if (!std::has_single_bit(config.size) || config.size > max_size) return QueueFault::BadSize;
  if (config.desc.raw() % 16 != 0 || config.avail.raw() % 2 != 0 || config.used.raw() % 4 != 0) {
    return QueueFault::MisalignedRing;
  }
  desc_ = memory_->host(config.desc, split_ring::desc_bytes(config.size));
  avail_ = memory_->host(config.avail, split_ring::avail_bytes(config.size));
  used_ = memory_->host(config.used, split_ring::used_bytes(config.size));
  const bool is_in_ram = desc_ != nullptr && avail_ != nullptr && used_ != nullptr;
  return is_in_ram ? QueueFault::None : QueueFault::RingOutsideRam;
}

QueueFault VirtQueue::configure(const QueueConfig& config, QueueFeatures features,
                                uint16_t max_size) {
  state_ = QueueState{};
  state_.config = config;
  state_.features = features;
  const QueueFault fault = map_rings(config, std::min(max_size, kMaxQueueSize));
  if (fault != QueueFault::None) mark_broken(fault);
  return fault;
}

QueueFault VirtQueue::restore(const QueueState& state) {
  state_ = state;
  if (is_broken()) return state.fault;
  const QueueFault fault = map_rings(state.config, kMaxQueueSize);
  if (fault != QueueFault::None) mark_broken(fault);
  return fault;
}

QueueState VirtQueue::save() const { return state_; }

void VirtQueue::mark_broken(QueueFault fault) {
  if (is_broken()) return;
  state_.fault = fault;
  if (on_fault_) on_fault_(fault);
}

uint16_t VirtQueue::load_avail_idx() const {
  // Pairs with the driver's write barrier (§2.7.13.2): the ring entries and descriptors below idx
  // are visible after this. Sequentially consistent because of allow_kicks(), see there.
  return load16(avail_ + split_ring::kIdxOffset, __ATOMIC_SEQ_CST);
}

uint16_t VirtQueue::pending() {
  if (is_broken()) return 0;
  const auto pending = static_cast<uint16_t>(load_avail_idx() - state_.next_avail);
  // An entry per buffer in flight or pending: a correct driver has no more descriptors to name. It
  // also bounds what a device keeps in flight.
  if (uint32_t{pending} + in_flight() > state_.config.size) {
    mark_broken(QueueFault::AvailIndexTooFar);
    return 0;
  }
  return pending;
}

std::optional<uint16_t> VirtQueue::pop_head() {
  if (pending() == 0) return std::nullopt;
  const uint64_t slot = state_.next_avail & mask();
  const uint16_t head = load16(avail_ + split_ring::kRingOffset + slot * 2, __ATOMIC_RELAXED);
  if (head >= state_.config.size) {
    mark_broken(QueueFault::HeadOutOfRange);
    return std::nullopt;
  }
  ++state_.next_avail;
  return head;
}

// HOT: no allocation once the chain's vectors have grown.
bool VirtQueue::pop(Chain& chain) {
  const auto head = pop_head();
  if (!head) return false;
  ChainWalk walk(*memory_, state_.features.indirect, chain);
  const QueueFault fault = walk.walk(desc_, state_.config.size, *head);
  if (fault == QueueFault::None) return true;
  mark_broken(fault);
  return false;
}

void VirtQueue::undo_pop() {
  if (is_broken()) return;
  DCHECK(in_flight() > 0);
  --state_.next_avail;
}

// HOT
void VirtQueue::fill_used(Chain& chain, uint64_t len) {
  if (is_broken()) return;
  len = std::min(len, chain.writable_bytes_);
  uint64_t left = std::min(std::max(len, chain.written_bytes_), chain.writable_bytes_);
  for (const iovec& part : chain.writable_) {
    if (left == 0) break;
    const uint64_t bytes = std::min<uint64_t>(left, part.iov_len);
    const auto* host = static_cast<const std::byte*>(part.iov_base);
    memory_->mark_written({Gpa{static_cast<uint64_t>(host - memory_->host_base())}, bytes});
    left -= bytes;
  }
  const uint64_t offset =
      split_ring::kRingOffset +
      uint64_t{static_cast<uint16_t>(state_.next_used & mask())} * sizeof(split_ring::UsedElement);
  const split_ring::UsedElement element{chain.head_, static_cast<uint32_t>(len)};
  std::memcpy(used_ + offset, &element, sizeof(element));
  ++state_.next_used;
  memory_->mark_written({state_.config.used + offset, sizeof(element)});
}

// HOT
void VirtQueue::publish_used() {
  if (is_broken()) return;
  // The data and the entries before the index (§2.7.8.2). Not merely a release: needs_interrupt()
  // reads what the driver wants after this store, the driver writes what it wants and then reads
  // this index (§2.7.7.2); each must see the other's store or be seen itself.
  store16(used_ + split_ring::kIdxOffset, state_.next_used, __ATOMIC_SEQ_CST);
  memory_->mark_written({state_.config.used + split_ring::kIdxOffset, 2});
}

bool VirtQueue::needs_interrupt() {
  if (is_broken()) return false;
  const uint16_t old_used = std::exchange(state_.signalled_used, state_.next_used);
  if (old_used == state_.next_used) return false;
  if (!state_.features.event_idx) {
    const uint16_t flags = load16(avail_ + split_ring::kFlagsOffset, __ATOMIC_SEQ_CST);
    return (flags & split_ring::kAvailNoInterrupt) == 0;
  }
  const uint16_t used_event =
      load16(avail_ + split_ring::used_event_offset(state_.config.size), __ATOMIC_SEQ_CST);
  return split_ring::passes_event(used_event, state_.next_used, old_used);
}

void VirtQueue::suppress_kicks() {
  if (is_broken() || !state_.are_kicks_allowed) return;
  state_.are_kicks_allowed = false;
  // With event indices an avail_event that stays behind does it.
  if (state_.features.event_idx) return;
  store16(used_ + split_ring::kFlagsOffset, split_ring::kUsedNoNotify, __ATOMIC_RELAXED);
  memory_->mark_written({state_.config.used + split_ring::kFlagsOffset, 2});
}

bool VirtQueue::allow_kicks_after(uint16_t buffers) {
  if (is_broken()) return false;
  const auto half = static_cast<uint16_t>(std::max(1, state_.config.size / 2));
  buffers = state_.features.event_idx ? std::min(buffers, half) : uint16_t{1};
  state_.are_kicks_allowed = true;
  // The mirror image of needs_interrupt(): this store, then the load of avail.idx in pending(); the
  // driver stores avail.idx, then loads this.
  if (state_.features.event_idx) {
    const uint64_t offset = split_ring::avail_event_offset(state_.config.size);
    const auto event = static_cast<uint16_t>(state_.next_avail + buffers - 1);
    store16(used_ + offset, event, __ATOMIC_SEQ_CST);
    memory_->mark_written({state_.config.used + offset, 2});
  } else {
    store16(used_ + split_ring::kFlagsOffset, 0, __ATOMIC_SEQ_CST);
    memory_->mark_written({state_.config.used + split_ring::kFlagsOffset, 2});
  }
  return pending() >= buffers;
}

}  // namespace trapeze
