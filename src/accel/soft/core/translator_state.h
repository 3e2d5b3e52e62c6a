// What translated code reaches besides the guest's registers: its inline TLB, the table of jump
// targets, and a few words. Part of Cpu, at fixed offsets from the GS base (translator/stubs.h).
//
// Owned by the vCPU's thread. Plain data; mmu/fast_tlb.h keeps the TLB in step with mmu/tlb.h.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace trapeze::soft {

// Direct-mapped by the low 16 bits of the page number, which one MOVZX makes. Translated code adds
// the (negative) tag to the linear address of the access's last byte and tests the bits above the
// page offset for zero: a compare that leaves the guest's flags alone. An entry without a page
// holds the tag of a page that selects another entry, and whose predecessor does so too (an access
// may cross into it): page 0 for all entries but two, so that fresh memory is an empty table.
struct FastTlb {
  static constexpr unsigned kEntries = 65536;
  // How many entries are in use at most: emptying a table costs as much.
  static constexpr unsigned kMaxFilled = 16384;

  uint64_t minus_read[kEntries];   // -(linear page), readable
  uint64_t minus_write[kEntries];  // -(linear page), writable
  uint64_t addend[kEntries];       // host address - linear address; not 0: the entry is in `filled`
  uint16_t filled[kMaxFilled];     // entries that were filled since the table was empty
};

// Which FastTlb translated code uses is fixed when it is translated. Those of the user are emptied
// at every change of address space.
enum class FastTable : uint8_t { Supervisor, User, UserAsSupervisor };
inline constexpr unsigned kFastTables = 3;

// What an empty entry holds, as a page; see above.
constexpr uint64_t no_fast_page(unsigned index) {
  const bool plain = index != 0 && index != FastTlb::kEntries - 1;
  return plain ? 0 : ~uint64_t{0} * ((index + 2) % FastTlb::kEntries * kPageSize);
}

// Where code for a linear address is, for jumps whose target is not known at translation. Addresses
// are kept negative, for the same kind of compare. Whether the code is right for the address space,
// privilege and mode of the moment, its own entry checks (Cpu::translator.tag).
struct JumpTable {
  static constexpr unsigned kEntries = 65536;
  // Functions are aligned, return addresses are not: the lowest bits tell little.
  static constexpr unsigned kShift = 2;

  uint64_t minus_linear[kEntries];
  const void* code[kEntries];

  static constexpr unsigned index(uint64_t linear) {
    return static_cast<unsigned>(linear >> kShift) % kEntries;
  }
  // Matches nothing that selects this entry: address 0 for all but the first, as fresh memory has.
  static constexpr uint64_t no_address(unsigned index) {
    return index != 0 ? 0 : ~uint64_t{0} * (uint64_t{1} << kShift);
  }
};

// Mapped below 2 GiB (mmu/fast_tlb.h): translated code names it by absolute addresses.
struct TranslatorTables {
  FastTlb tlb[kFastTables];
  JumpTable jumps;
};

inline constexpr unsigned kX87AreaBytes = 576;  // legacy region and header (SDM 1 13.4)

inline constexpr uint64_t kTranslatorTagMask = 0x7fff'ffff;

// TranslatorState::reload_sse. `Low`: the upper halves of the YMM registers are 0, if there are
// any; the host's are left as VZEROUPPER leaves them, which is kinder to SSE code.
enum class Reload : uint64_t { None, Low, All };

struct alignas(64) TranslatorState {
  // Constants, in memory because PEXT takes its mask from there.
  uint64_t page_mask = ~uint64_t{kPageSize - 1};
  uint64_t aligned_page_mask = ~uint64_t{kPageSize - 1} | 15;
  uint64_t unaligned_mask = 15;
  uint64_t bit_masks[2] = {31, 63};
  uint64_t not_if_mask = ~(uint64_t{1} << 9);
  uint64_t pushed_mask = ~((uint64_t{1} << 16) | (uint64_t{1} << 17));

  // What can be translated: 64-bit code, and 32-bit code with flat segments (mmu/mmu.cpp).
  uint64_t usable = 0;
  uint64_t tag = 0;         // 31 bits of Cpu::code_tag and the FastTable: entries check it
  uint64_t sse_absent = 1;  // 0: the host's XMM registers hold the guest's
  uint64_t reload_sse = 0;  // asks the slow stub to load them before it goes on: a Reload
  uint64_t site = 0;        // which exit or site of translated code called
  uint64_t target = 0;      // scratch of the stubs: where to go on
  uint64_t flush = 0;       // tags begin to repeat: all translations must go
  uint64_t resumed = 0;     // the interpreter came to the end of what it was given
  uint64_t cached = 0;      // what the slow stub leaves in RCX where it goes on
  uint64_t spare = 0;       // scratch of translated code
  uint64_t kept[8] = {};    // addends that probes left for later accesses (translator/keeps.cpp)
  uint64_t linear = 0;      // of the access whose probe missed
  uint64_t saved[3] = {};   // scratch of the stub that fills the inline TLB
  void* cpu = nullptr;
  void* translator = nullptr;  // the Translator
  const void* (*slow)(void* cpu, uint64_t site) = nullptr;

  // The return stack (translator/return_stack.h) is the host's stack while translated code runs.
  uint64_t return_top = 0;             // empty
  uint64_t return_stack = 0;           // the stack pointer while it does not run
  uint64_t host_stack = 0;             // and that of C++ while it does
  TranslatorTables* tables = nullptr;  // nullptr: there is no translator
  uint32_t filled[kFastTables] = {};   // used of FastTlb::filled

  // Where the CPU model has AVX.
  uint64_t unaligned_mask_32 = 31;
  uint64_t aligned_page_mask_32 = ~uint64_t{kPageSize - 1} | 31;
  uint64_t avx_absent = 1;  // 0: as sse_absent, and the guest may use AVX

  // The x87 unit (translator/x87.cpp).
  uint64_t x87_absent = 1;    // 0: the host's unit holds the guest's state
  uint64_t x87_saved = 0;     // x87_area has it, newer than Cpu::fpu
  uint64_t reload_x87 = 0;    // asks the slow stub to load x87_area before it goes on
  uint64_t x87_masks = 0x3f;  // of exceptions in the control word
  alignas(64) uint8_t x87_area[kX87AreaBytes] = {};  // XSAVE's, with the x87 component only

  // Repeated string instructions (translator/strings.cpp).
  uint64_t page_offset_mask = kPageSize - 1;
  uint64_t string_from = 0;  // host address
};

}  // namespace trapeze::soft
