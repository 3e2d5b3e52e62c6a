// The memory layout of a split virtqueue (virtio 1.2 §2.7.5, §2.7.6, §2.7.8) and single, ordered
// accesses to it. Private to virtio/queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace trapeze::split_ring {

struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  uint32_t id;
  uint32_t len;
};
static_assert(sizeof(UsedElement) == 8);

inline constexpr uint16_t kDescNext = 1;
inline constexpr uint16_t kDescWrite = 2;
inline constexpr uint16_t kDescIndirect = 4;
inline constexpr uint16_t kAvailNoInterrupt = 1;
inline constexpr uint16_t kUsedNoNotify = 1;

// avail: flags, idx, ring[size], used_event.   used: flags, idx, ring[size], avail_event.
inline constexpr uint64_t kFlagsOffset = 0;
inline constexpr uint64_t kIdxOffset = 2;
inline constexpr uint64_t kRingOffset = 4;
constexpr uint64_t desc_bytes(uint16_t size) { return uint64_t{size} * sizeof(Descriptor); }
constexpr uint64_t used_event_offset(uint16_t size) { return kRingOffset + uint64_t{size} * 2; }
constexpr uint64_t avail_bytes(uint16_t size) { return used_event_offset(size) + 2; }
constexpr uint64_t avail_event_offset(uint16_t size) {
  return kRingOffset + uint64_t{size} * sizeof(UsedElement);
}
constexpr uint64_t used_bytes(uint16_t size) { return avail_event_offset(size) + 2; }

// §2.7.10.1: whether going from `old_idx` to `new_idx` passes `event_idx`.
constexpr bool passes_event(uint16_t event_idx, uint16_t new_idx, uint16_t old_idx) {
  return static_cast<uint16_t>(new_idx - event_idx - 1) < static_cast<uint16_t>(new_idx - old_idx);
}

// Rings are 2-byte aligned (checked when a queue is configured).
inline uint16_t load16(const std::byte* at, int order) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), order);
}
inline void store16(std::byte* at, uint16_t value, int order) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, order);
}
// The guest may rewrite a descriptor at any time, and indirect tables have no alignment: one copy,
// which the compiler may not repeat.
inline Descriptor load_descriptor(const std::byte* at) {
  Descriptor descriptor;
  std::memcpy(&descriptor, at, sizeof(descriptor));
  asm volatile("" ::: "memory");
  return descriptor;
}

}  // namespace trapeze::split_ring
