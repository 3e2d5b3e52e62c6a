// Register states in which kernels are entered, and the tables in guest memory behind them.
#pragma once

#include "arch/x86/boot/placement.h"
#include "arch/x86/vcpu_state.h"
#include "memory/guest_memory.h"

namespace trapeze::boot {

// Long mode, paging on with the first 4 GiB mapped one to one, flat segments __BOOT_CS 0x10 and
// __BOOT_DS 0x18, interrupts off (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
// Writes GDT and page tables.
VcpuState long_mode_state(GuestMemory& memory, Gpa entry);

// Protected mode, paging off, flat 32-bit segments with the same selectors, interrupts off: what
// the 32-bit Linux protocol, PVH and multiboot 1 (3.2, "Machine state") ask for. Writes the GDT.
VcpuState protected_mode_state(GuestMemory& memory, Gpa entry);

// The ranges that these two write.
Result<void> claim_long_mode_tables(Placement& placement);
Result<void> claim_gdt(Placement& placement);

}  // namespace trapeze::boot
