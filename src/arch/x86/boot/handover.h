// The state in which firmware hands a PC to a multiboot loader, as far as programs count on it: the
// 8259s programmed with IRQ 0 open, the 8254 ticking at 18.2 Hz, and an interrupt vector table
// whose handlers return. Real-mode programs that wait in HLT for the next tick would otherwise
// never wake.
#pragma once

#include "memory/guest_memory.h"

namespace trapeze::boot {

inline constexpr uint64_t kHandoverBytes = 128;

// Writes the vector table (0 to 0x3ff) and, at `at` (below 64 KiB), the handlers and a short piece
// of 32-bit code that programs the chips and goes on to `entry` with the magic number in EAX and
// all other registers but ECX as they were. Returns where that code starts.
Gpa write_handover(Gpa at, uint32_t entry, uint32_t eax, GuestMemory& memory);

}  // namespace trapeze::boot
