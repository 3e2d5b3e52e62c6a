// Debug registers: breakpoints and single step (SDM 3B 17.2, 17.3).
//
// The run loop asks before an instruction (execution breakpoints) and behind it (data breakpoints
// and TF are traps); data accesses to watched ranges are noted by the MMU (mmu/watch.h). While
// anything here is armed, needs_stepping() holds and blocks are one instruction long.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

// DR6 bits.
inline constexpr uint64_t kDr6Bd = 1U << 13, kDr6Bs = 1U << 14, kDr6Bt = 1U << 15;
inline constexpr uint64_t kDr6Fixed = 0xffff0ff0;  // read as 1; includes RTM (bit 16)
inline constexpr uint64_t kDr7Fixed = 1U << 10;
inline constexpr uint64_t kDr7Gd = 1U << 13;

// True while instructions must be executed one at a time: TF, or an enabled breakpoint.
bool needs_stepping(const Cpu& cpu);
// Before an instruction at `linear`: when an execution breakpoint hits and RF is clear, makes #DB
// (a fault) pending in cpu.fault and returns true.
bool check_execution_breakpoint(Cpu& cpu, uint64_t linear);

// A port access of the current instruction: notes hits in cpu.single_step_dr6 (needs CR4.DE). Data
// accesses do the same in mmu/watch.h.
void check_io_breakpoint(Cpu& cpu, uint16_t port, unsigned size);

// Behind a completed instruction that started with cpu.stepping as TF was then: when a trap is due,
// makes #DB pending in cpu.fault (rip must be the next instruction) and returns true. Not to be
// called while the MOV SS shadow is in force: its traps are then kept for the next instruction.
bool take_debug_trap(Cpu& cpu);

}  // namespace trapeze::soft
