// Segment attribute bits, and the limit check (SDM 3A 5.3) that data accesses, stacks not yet
// loaded and branches share.
#pragma once

#include <cstdint>

#include "arch/x86/vcpu_state.h"

namespace trapeze::soft {

// Bits of Segment::access.
inline constexpr uint32_t kSegWritable = 1U << 1;  // data: writable; code: readable
inline constexpr uint32_t kSegDown = 1U << 2;      // data: expand-down; code: conforming
inline constexpr uint32_t kSegCode = 1U << 3;
inline constexpr uint32_t kSegS = 1U << 4;  // code or data, not a system descriptor
inline constexpr uint32_t kSegPresent = 1U << 7;
inline constexpr uint32_t kSegL = 1U << 13;
inline constexpr uint32_t kSegDb = 1U << 14;
inline constexpr uint32_t kSegG = 1U << 15;

constexpr bool is_usable(const Segment& segment) {
  return (segment.access & kSegmentUnusable) == 0;
}
constexpr unsigned segment_dpl(uint32_t access) { return (access >> 5) & 3U; }

// True when all of [offset, offset + size) lies inside the segment's limit.
constexpr bool is_within_limit(const Segment& segment, uint64_t offset, uint64_t size) {
  const uint64_t last = offset + size - 1;
  if ((segment.access & (kSegCode | kSegDown | kSegS)) == (kSegDown | kSegS)) {
    const uint64_t top = (segment.access & kSegDb) != 0 ? 0xffff'ffffU : 0xffffU;
    return offset > segment.limit && last <= top;
  }
  return last <= segment.limit;
}

}  // namespace trapeze::soft
