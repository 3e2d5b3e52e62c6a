// What translated code reaches besides the guest's registers: its inline TLB, the table of jump
// targets, and a few words. Part of Cpu, at fixed offsets from the GS base (translator/stubs.h).
//
// Owned by the vCPU's thread. Plain data; mmu/fast_tlb.h keeps the TLB in step with mmu/tlb.h.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace trapeze::soft {

// Direct-mapped. Translated code adds the (negative) tag to the linear address of the access's last
// byte and tests the bits above the page offset for zero: a compare that leaves the guest's flags
// alone. An entry without a page holds the tag of a page that selects another entry, and whose
// predecessor does so too (an access may cross into it).
struct FastTlb {
  static constexpr unsigned kMaxEntries = 1024;

  uint64_t minus_read[kMaxEntries];   // -(linear page), readable
  uint64_t minus_write[kMaxEntries];  // -(linear page), writable
  uint64_t addend[kMaxEntries];       // host address - linear address
};

// Which FastTlb translated code uses is fixed when it is translated.
enum class FastTable : uint8_t { Supervisor, User, UserAsSupervisor };
inline constexpr unsigned kFastTables = 3;
// Powers of two. Those of the user are emptied at every change of address space.
inline constexpr unsigned kFastEntries[kFastTables] = {1024, 512, 256};

constexpr unsigned fast_entries(FastTable table) {
  return kFastEntries[static_cast<unsigned>(table)];
}
// What an empty entry holds, as a page; see above.
constexpr uint64_t no_fast_page(unsigned index, unsigned entries) {
  return ~uint64_t{0} * ((index + 2) % entries * kPageSize);
}

// Where code for a linear address is, for jumps whose target is not known at translation. Addresses
// are kept negative, for the same kind of compare. Whether the code is right for the address space,
// privilege and mode of the moment, its own entry checks (Cpu::translator.tag).
inline constexpr unsigned kJumpEntries = 32768;
// Functions are aligned, return addresses are not: the lowest bits tell little.
inline constexpr unsigned kJumpShift = 2;
struct JumpTable {
  struct Entry {
    uint64_t minus_linear;
    const void* code;
  };
  Entry entries[kJumpEntries];

  static constexpr unsigned index(uint64_t linear) {
    return static_cast<unsigned>(linear >> kJumpShift) % kJumpEntries;
  }
  // Matches nothing that selects this entry.
  static constexpr uint64_t no_address(unsigned index) {
    return ~uint64_t{0} * (((index + 1) % kJumpEntries) << kJumpShift);
  }
};

inline constexpr uint64_t kTranslatorTagMask = 0x7fff'ffff;

struct alignas(64) TranslatorState {
  // Constants, in memory because PEXT takes its mask from there.
  uint64_t tlb_masks[kFastTables] = {uint64_t{kFastEntries[0] - 1} * kPageSize,
                                     uint64_t{kFastEntries[1] - 1} * kPageSize,
                                     uint64_t{kFastEntries[2] - 1} * kPageSize};
  uint64_t page_mask = ~uint64_t{kPageSize - 1};
  uint64_t aligned_page_mask = ~uint64_t{kPageSize - 1} | 15;
  uint64_t unaligned_mask = 15;
  uint64_t jump_mask = uint64_t{kJumpEntries - 1} << kJumpShift;
  uint64_t bit_masks[2] = {31, 63};
  uint64_t not_if_mask = ~(uint64_t{1} << 9);
  uint64_t pushed_mask = ~((uint64_t{1} << 16) | (uint64_t{1} << 17));

  uint64_t tag = 0;         // 31 bits of Cpu::code_tag and the FastTable: entries check it
  uint64_t sse_absent = 1;  // 0: the host's XMM registers hold the guest's
  uint64_t reload_sse = 0;  // asks the slow stub to load them before it goes on
  uint64_t site = 0;        // which exit or site of translated code called
  uint64_t target = 0;      // scratch of the stubs: where to go on
  uint64_t flush = 0;       // tags begin to repeat: all translations must go
  uint64_t resumed = 0;     // the interpreter came to the end of what it was given
  uint64_t spare = 0;       // scratch of translated code
  uint64_t linear = 0;      // of the access whose probe missed
  uint64_t saved[3] = {};   // scratch of the stub that fills the inline TLB
  void* cpu = nullptr;
  void* translator = nullptr;  // the Translator
  const void* (*slow)(void* cpu, uint64_t site) = nullptr;

  FastTlb tlb[kFastTables];
  JumpTable jumps;
};

}  // namespace trapeze::soft
