// What follows from the control registers and segments: code size, stack size, bases, rights.
#pragma once

#include "accel/soft/core/cpu.h"
#include "base/result.h"

namespace trapeze::soft {

// Recomputes code_size, stack32, linear_base, df and the TLB choice. Call after any change of a
// segment register, CPL, CR0, CR4, EFER or the system flags.
void update_mode(Cpu& cpu);

// Sets the flags selected by `mask` (arithmetic and system ones), with all that follows: df, AC's
// TLB choice, kAttnInterrupt when IF opens a window somebody waits for, kAttnStep for TF.
void set_rflags(Cpu& cpu, uint64_t value, uint64_t mask);

// RESET and INIT (SDM 3A table 10-1). INIT keeps CR0.CD/NW, the FPU, MSRs and the TSC.
void reset_cpu(Cpu& cpu);
void init_cpu(Cpu& cpu);
// Start of an application processor at `vector` * 4 KiB.
void start_at_sipi(Cpu& cpu, uint8_t vector);

// To and from the canonical state (the local APIC part is the caller's).
VcpuState save_cpu(const Cpu& cpu);
Result<void> restore_cpu(Cpu& cpu, const VcpuState& state);

}  // namespace trapeze::soft
