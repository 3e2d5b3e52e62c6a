// Delivery of exceptions and interrupts through the IVT or IDT (SDM 3A ch. 6).
// All functions run on the vCPU's own thread, between blocks, with cpu.rip current.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

// Delivers cpu.fault (rip: the faulting instruction for faults, the next for traps) and clears it;
// a fault on the way becomes #DF, then shutdown (cpu.shut_down).
void deliver_fault(Cpu& cpu);
// An external interrupt that the local APIC or PIC has handed over; IF was checked.
void deliver_interrupt(Cpu& cpu, uint8_t vector);
void deliver_nmi(Cpu& cpu);

// INT n, INT3, INTO, INT1 by the current instruction; `return_rip` is the next instruction.
// Returns Step::Branch, or Step::Fault with the exception pending.
Step software_interrupt(Cpu& cpu, uint8_t vector, uint64_t return_rip);

}  // namespace trapeze::soft
