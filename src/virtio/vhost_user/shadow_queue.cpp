#include "virtio/vhost_user/shadow_queue.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "virtio/queue/split_ring.h"

namespace trapeze {

using split_ring::load16;
using split_ring::store16;

static_assert(ShadowQueue::kAvailOffset == split_ring::desc_bytes(ShadowQueue::kSize));
static_assert(ShadowQueue::kUsedOffset - ShadowQueue::kAvailOffset >=
              split_ring::avail_bytes(ShadowQueue::kSize));
static_assert(ShadowQueue::kBytes - ShadowQueue::kUsedOffset >=
              split_ring::used_bytes(ShadowQueue::kSize));

ShadowQueue::ShadowQueue(const GuestMemory& memory) : memory_(memory) { free_.reserve(kSize); }

void ShadowQueue::begin(std::span<std::byte> ring) {
  CHECK(ring.size() == kBytes);
  ring_ = ring;
  next_avail_ = published_avail_ = next_used_ = 0;
  free_.clear();
  for (uint16_t i = 0; i < kSize; ++i) free_.push_back(static_cast<uint16_t>(kSize - 1 - i));
  is_head_.fill(false);
  for (auto entry = in_flight_.begin(); entry != in_flight_.end(); ++entry) put(entry);
}

// HOT
void ShadowQueue::submit(Chain& chain) {
  DCHECK(is_begun() && has_room(chain) && parts_of(chain) > 0);
  if (spare_.empty()) spare_.emplace_back();
  in_flight_.splice(in_flight_.end(), spare_, spare_.begin());
  const auto entry = std::prev(in_flight_.end());
  std::swap(entry->chain, chain);
  put(entry);
}

void ShadowQueue::put(Entries::iterator entry) {
  const auto readable = entry->chain.readable();
  const auto writable = entry->chain.writable();
  const size_t parts = readable.size() + writable.size();
  uint16_t previous = 0;
  for (size_t i = 0; i < parts; ++i) {
    const uint16_t index = free_.back();
    free_.pop_back();
    if (i == 0) {
      entry->head = index;
    } else {
      next_[previous] = index;
      std::memcpy(ring_.data() + size_t{previous} * 16 + offsetof(split_ring::Descriptor, next),
                  &index, sizeof(index));
    }
    const bool is_writable = i >= readable.size();
    put_descriptor(index, is_writable ? writable[i - readable.size()] : readable[i], is_writable,
                   i + 1 == parts);
    previous = index;
  }
  next_[previous] = kSize;
  by_head_[entry->head] = entry;
  is_head_[entry->head] = true;
  const size_t slot = next_avail_ & (kSize - 1);
  store16(ring_.data() + kAvailOffset + split_ring::kRingOffset + slot * 2, entry->head,
          __ATOMIC_RELAXED);
  ++next_avail_;
}

void ShadowQueue::put_descriptor(uint16_t index, const iovec& part, bool is_writable,
                                 bool is_last) {
  const auto* host = static_cast<const std::byte*>(part.iov_base);
  const auto flags = static_cast<uint16_t>((is_writable ? split_ring::kDescWrite : 0) |
                                           (is_last ? 0 : split_ring::kDescNext));
  const split_ring::Descriptor descriptor{static_cast<uint64_t>(host - memory_.host_base()),
                                          static_cast<uint32_t>(part.iov_len), flags, 0};
  std::memcpy(ring_.data() + size_t{index} * 16, &descriptor, sizeof(descriptor));
}

bool ShadowQueue::publish() {
  if (published_avail_ == next_avail_) return false;
  published_avail_ = next_avail_;
  std::byte* const avail = ring_.data() + kAvailOffset;
  std::byte* const used = ring_.data() + kUsedOffset;
  // The entries before the index, and the index before the look at what the back end wants
  // (virtio 1.2 §2.7.13.3, §2.7.13.4): it stores its wish and then reads this index.
  store16(avail + split_ring::kIdxOffset, next_avail_, __ATOMIC_SEQ_CST);
  return (load16(used + split_ring::kFlagsOffset, __ATOMIC_SEQ_CST) & split_ring::kUsedNoNotify) ==
         0;
}

// HOT
ShadowQueue::Taken ShadowQueue::take_used(Chain& chain, uint32_t& len) {
  const std::byte* const used = ring_.data() + kUsedOffset;
  const uint16_t used_idx = load16(used + split_ring::kIdxOffset, __ATOMIC_ACQUIRE);
  const auto done = static_cast<uint16_t>(used_idx - next_used_);
  if (done == 0) return Taken::Nothing;
  if (done > in_flight_.size()) return Taken::Violation;
  split_ring::UsedElement element;
  std::memcpy(&element,
              used + split_ring::kRingOffset + size_t{next_used_ & (kSize - 1U)} * sizeof(element),
              sizeof(element));
  asm volatile("" ::: "memory");  // one copy: the back end may change it
  if (element.id >= kSize || !is_head_[element.id]) return Taken::Violation;
  const auto entry = by_head_[element.id];
  if (element.len > entry->chain.writable_bytes()) return Taken::Violation;
  ++next_used_;
  len = element.len;
  is_head_[entry->head] = false;
  for (uint16_t index = entry->head; index != kSize; index = next_[index]) free_.push_back(index);
  remove(entry, chain);
  return Taken::Chain;
}

bool ShadowQueue::take_oldest(Chain& chain) {
  DCHECK(!is_begun());
  if (in_flight_.empty()) return false;
  remove(in_flight_.begin(), chain);
  return true;
}

void ShadowQueue::remove(Entries::iterator entry, Chain& chain) {
  std::swap(entry->chain, chain);
  spare_.splice(spare_.end(), in_flight_, entry);
}

}  // namespace trapeze
