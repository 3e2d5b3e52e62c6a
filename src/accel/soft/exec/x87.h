// x87: one instruction on the host's own x87 unit.
#pragma once

#include <cstdint>

#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/fpu.h"

namespace trapeze::soft::exec {

// Code that executes one x87 instruction: register forms by opcode (0xd8..0xdf) and ModRM byte,
// memory forms by opcode and ModRM.reg with the operand at the address in rdi.
using X87Stub = const void*;
X87Stub x87_register_stub(uint8_t opcode, uint8_t modrm);
X87Stub x87_memory_stub(uint8_t opcode, uint8_t reg);

// What an instruction left: the x87 part of an FXSAVE image.
struct alignas(16) X87Result {
  FxImage image;
  uint8_t rest[kFxImageSize - sizeof(FxImage)];
  ArithmeticFlags flags;  // FCOMI and its kin
  uint16_t raised;        // exception flags that this instruction raised
};

// Runs `stub` on the guest's whole x87 state and leaves the new state in `result`; `cpu` stays.
// Unmasked exceptions stay pending in the result and never reach the host.
void run_x87(const Cpu& cpu, X87Stub stub, void* operand, X87Result& result);
// Makes the result the guest's state.
void commit_x87(Cpu& cpu, const X87Result& result);

// bind_x87() leaves the opcode byte in insn.dst, ModRM in insn.src and ModRM.reg in insn.aux.
inline bool is_x87_register_form(const Insn& insn) { return insn.src >= 0xc0; }

// FIP tells of the last non-control instruction; FOP and FDP of the last that raised an unmasked
// exception; FCS and FDS are 0 (SDM 1 8.1.8, 8.1.9; FDP_EXCPTN_ONLY and ZERO_FCS_FDS of CPUID).
inline void record_x87(Cpu& cpu, const Insn& insn) { cpu.fpu.fip = insn_rip(cpu, insn); }

// The guest's control and status words, tags and registers, to and from the x87 part of an FXSAVE
// image; the pointers are left alone.
void put_x87(const FpuState& fpu, FxImage& image);
void take_x87(FpuState& fpu, const FxImage& image);

// True when an instruction depends on its operands and the control word alone, and reports nothing:
// the unit may be used, all exceptions are masked and none is pending.
inline bool is_x87_quiet(const Cpu& cpu) {
  return (cpu.cr0 & (kCr0Em | kCr0Ts)) == 0 && (cpu.fpu.fsw & kFswEs) == 0 &&
         (~cpu.fpu.fcw & kFcwMasks) == 0;
}

// Any data instruction by run_x87().
Step x87_exact(Cpu& cpu, const Insn& insn);

// x87_quick.cpp: the frequent instructions when nothing is unusual (all exceptions masked, no stack
// fault), with only their operands taken to the host's unit; nullptr for the others.
Handler bind_x87_quick(const Decoded& decoded);

}  // namespace trapeze::soft::exec
