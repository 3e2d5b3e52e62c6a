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
  uint64_t large_regions = 0;  // bit (GiB number % 64): some entry there is part of a large page
  bool may_write = false;      // some entry may have a write tag
  // Pages whose translations are not global, so that dropping them need not look at all entries;
  // more than kMaxLocal: not all are listed.
  static constexpr unsigned kMaxLocal = 64;
  unsigned local_count = 0;
  uint64_t local_pages[kMaxLocal];

  void note_local(uint64_t page) {
    if (local_count < kMaxLocal) local_pages[local_count] = page;
    if (local_count <= kMaxLocal) ++local_count;
  }

  static uint64_t region(uint64_t linear) { return uint64_t{1} << (linear / GiB % 64); }
  bool may_have_large(uint64_t linear) const { return (large_regions & region(linear)) != 0; }
  // Not simply the lowest bits: two pages that fight for an entry of the inline TLB, which is
  // indexed by those, should not do so here too. translator/stubs.cpp does the same in code.
  //
  // No two pages in a row may share an entry: an access that crosses pages is looked up by its
  // first byte and compared by its last, and would hit.
  static constexpr unsigned kIndexShift = 10;
  static constexpr unsigned index(uint64_t linear) {
    const uint64_t page = linear / kPageSize;
    return static_cast<unsigned>((page + (page >> kIndexShift)) % kTlbEntries);
  }
  TlbEntry& entry(uint64_t linear) { return entries[index(linear)]; }
};

// Which pages code was fetched from since the code epoch began, roughly (no false negatives): most
// INVLPGs are for data pages and need not start a new epoch. Of large pages only the GiB is known.
struct CodeFilter {
  static constexpr unsigned kWords = 64, kMaxRegions = 4;
  uint64_t bits[kWords] = {};
  uint64_t large_regions[kMaxRegions] = {};  // linear address / GiB
  unsigned large_count = 0;                  // more than kMaxRegions: anywhere

  static unsigned hash(uint64_t linear) {
    return static_cast<unsigned>((linear / kPageSize * 0x9e37'79b9'7f4a'7c15U) >> 52);
  }
  void add(uint64_t linear, bool large) {
    if (!large) {
      bits[hash(linear) / 64] |= uint64_t{1} << (hash(linear) % 64);
    } else if (!in_large_region(linear)) {
      if (large_count < kMaxRegions) large_regions[large_count] = linear / GiB;
      ++large_count;
    }
  }
  bool may_hold(uint64_t linear) const {
    return ((bits[hash(linear) / 64] >> (hash(linear) % 64)) & 1) != 0 || in_large_region(linear);
  }
  bool in_large_region(uint64_t linear) const {
    if (large_count > kMaxRegions) return true;
    for (unsigned i = 0; i < large_count; ++i) {
      if (large_regions[i] == linear / GiB) return true;
    }
    return false;
  }
};

// Translations of one address space (PCID), as user code and as supervisor code under EFLAGS.AC
// see it; both are dropped together.
struct AddressSpace {
  uint64_t pcid = ~uint64_t{0};
  uint64_t last_used = 0;
  uint64_t code_epoch = 0;  // see code_tag(); new whenever a translation was dropped
  CodeFilter code;
  Tlb user;
  Tlb user_as_supervisor;
};

inline constexpr unsigned kAddressSpaces = 4;

struct TlbContexts {
  // Supervisor accesses with EFLAGS.AC clear, for all address spaces: nearly all its entries are
  // global; the others are dropped when the address space changes.
  Tlb supervisor;
  AddressSpace spaces[kAddressSpaces];
  AddressSpace* current = &spaces[0];
  uint64_t supervisor_code_epoch = 1;
  CodeFilter supervisor_code;
  uint64_t next_epoch = 2;
  uint64_t uses = 0;
  bool local_supervisor_code = false;  // code was fetched from a supervisor page that is not global
  uint64_t pdpte[4] = {};              // PAE page-directory-pointer registers
};

}  // namespace trapeze::soft
