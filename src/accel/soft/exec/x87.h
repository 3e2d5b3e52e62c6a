// x87: one instruction on the host's own x87 unit.
#pragma once

#include <cstdint>

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

}  // namespace trapeze::soft::exec
