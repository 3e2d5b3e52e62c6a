// Model-specific registers, by one table (msr.cpp; SDM 4).
#pragma once

#include <cstdint>
#include <vector>

#include "accel/soft/core/cpu.h"
#include "arch/x86/vcpu_state.h"

namespace trapeze::soft {

// RDMSR and WRMSR behind the privilege check: false means #GP(0), and nothing changed.
bool read_msr(Cpu& cpu, uint32_t index, uint64_t& value);
bool write_msr(Cpu& cpu, uint32_t index, uint64_t value);

// Values at RESET.
void reset_msrs(Cpu& cpu);

// Those that VcpuState does not tell elsewhere.
void save_msrs(const Cpu& cpu, std::vector<MsrValue>& to);
// As write_msr(), but IA32_TSC does not move IA32_TSC_ADJUST. False: unknown, or a bad value.
bool restore_msr(Cpu& cpu, uint32_t index, uint64_t value);

// The guest TSC now.
uint64_t guest_tsc(const Cpu& cpu);

}  // namespace trapeze::soft
