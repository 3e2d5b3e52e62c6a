// Data breakpoints (DR0..DR3 with R/W of 1 or 3, and I/O ones; SDM 3B 17.2.4). Watched pages never
// enter the TLB, so the fast path knows nothing of them; hits are reported after the instruction.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "base/units.h"

namespace trapeze::soft {

inline bool breakpoint_enabled(const Cpu& cpu, unsigned i) {
  return ((cpu.dr7 >> (2 * i)) & 3) != 0;
}
// R/W field: 0 execution, 1 data writes, 2 I/O, 3 data reads and writes.
inline unsigned breakpoint_kind(const Cpu& cpu, unsigned i) {
  return static_cast<unsigned>((cpu.dr7 >> (16 + 4 * i)) & 3);
}
// LEN field as bytes.
inline unsigned breakpoint_length(const Cpu& cpu, unsigned i) {
  constexpr unsigned kLengths[] = {1, 2, 8, 4};
  return kLengths[(cpu.dr7 >> (18 + 4 * i)) & 3];
}

inline bool page_is_watched(const Cpu& cpu, uint64_t page) {
  if ((cpu.dr7 & 0xff) == 0) [[likely]]
    return false;
  for (unsigned i = 0; i < 4; ++i) {
    if (!breakpoint_enabled(cpu, i) || breakpoint_kind(cpu, i) == 0) continue;
    if (align_down(cpu.dr[i], kPageSize) == page) return true;
  }
  return false;
}

inline void note_watched_access(Cpu& cpu, uint64_t linear, unsigned size, bool write) {
  if ((cpu.dr7 & 0xff) == 0) [[likely]]
    return;
  for (unsigned i = 0; i < 4; ++i) {
    if (!breakpoint_enabled(cpu, i)) continue;
    const unsigned kind = breakpoint_kind(cpu, i);
    if (kind != 3 && !(kind == 1 && write)) continue;
    const unsigned length = breakpoint_length(cpu, i);
    const uint64_t start = align_down(cpu.dr[i], length);
    if (linear < start + length && start < linear + size) cpu.single_step_dr6 |= 1U << i;
  }
}

}  // namespace trapeze::soft
