// The software TLB: guest linear page to host address, one table for each kind of access rights.
//
// A tag is the linear page address; kNoTag never matches. An entry matches an access of `size`
// bytes when the pages of its first and last byte are the same and the tag is that page: tag_of()
// gives the page of the last byte, entry() selects by the page of the first, so a crossing access
// misses. Non-canonical addresses are never entered, so the fast path needs no canonical check.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace trapeze::soft {

inline constexpr uint64_t kNoTag = 1;  // not page-aligned, so it equals no page
inline constexpr unsigned kTlbEntries = 1024;

inline uint64_t tag_of(uint64_t linear, unsigned size) {
  return (linear + size - 1) & ~(kPageSize - 1);
}

struct TlbEntry {
  uint64_t read_tag = kNoTag;
  uint64_t write_tag = kNoTag;  // only for pages that may be written at once: dirty, no code
  uint64_t addend = 0;          // host address - linear address
  uint64_t frame = 0;           // guest physical page, bit 0: global, bit 1: part of a large page

  void* host(uint64_t linear) const { return reinterpret_cast<void*>(linear + addend); }
};

struct Tlb {
  TlbEntry entries[kTlbEntries];

  TlbEntry& entry(uint64_t linear) { return entries[(linear / kPageSize) % kTlbEntries]; }
};

}  // namespace trapeze::soft
