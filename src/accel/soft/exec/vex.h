// VEX-encoded instructions: how the interpreter runs them.
//
// Guest and host are the same architecture, so nothing is written down about what each of some four
// hundred instructions computes. A thunk is the guest's instruction with other operands: registers
// of fixed numbers for the guest's, a buffer for its memory operand. There is one thunk for each
// encoding that remains (opcode, vector length, immediate), made when the first such instruction is
// bound and kept for the life of the process: at most some 80,000 of 50 bytes. The operands are
// carried in and out around it, so faults, alignment and rights are told before it runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/decode/insn.h"
#include "base/result.h"

namespace trapeze::soft::exec {

// An operand's place in the encoding. The thunk has role i in YMMi, or in RAX, RCX, RDX, RSI.
enum VexRole : unsigned { kRoleReg, kRoleVvvv, kRoleRm, kRoleImmediate };
inline constexpr unsigned kVexRoles = 4;
// General registers: ModRM.rm is in RSI, since RDX is an implicit operand of MULX and VPCMPESTRx.
inline constexpr unsigned kGprRdx = 2, kGprRm = 3;

struct alignas(32) VexOperands {
  uint8_t vector[kVexRoles][32];
  uint8_t memory[32];
  uint64_t gpr[4];
  ArithmeticFlags flags;
};
// A thunk is given the address of `memory`, so that displacements are one byte.
using VexThunk = void (*)(void* memory);

enum class VexMemory : uint8_t { None, Read, Write };
// Which elements of the result may be tiny; see Tiny in sse_float.h.
enum class VexTiny : uint8_t { Never, Single, Double, Singles, Doubles, Halves };

struct VexOp {
  VexThunk run = nullptr;
  uint8_t vector_in = 0, vector_out = 0;  // bit i: role i
  uint8_t gpr_in = 0, gpr_out = 0;        // bit i: VexOperands::gpr[i]
  // Of these the guest's register is the one of the same place: implicit operands.
  uint8_t gpr_fixed = 0;
  VexMemory memory = VexMemory::None;
  uint8_t memory_bytes = 0;
  uint8_t alignment = 1;
  VexTiny tiny = VexTiny::Never;
  bool general = false;    // has general registers or flags
  bool needs_avx = false;  // not so the instructions on general registers alone
  bool is_float = false;   // under MXCSR
  bool to_xmm0 = false;    // role 0's result goes to XMM0: VPCMPxSTRM
};

// What the thunk's encoding is made of.
struct VexEncoding {
  uint8_t map = 0, pp = 0, opcode = 0;
  bool wide = false;    // W
  bool is_256 = false;  // L
  bool has_vvvv = false;
  bool has_memory = false;
  bool rm_is_gpr = false;
  uint8_t extension = 0;  // ModRM.reg where it is none of the operands
  bool has_immediate = false;
  uint8_t immediate = 0;
};

// Makes room for thunks; needed once before anything is bound for a CPU model with AVX or BMI.
Result<void> prepare_vex();
// `op` with the thunk for `encoding`, by number; the same for the same encoding. kNoVexOp: there is
// no room.
inline constexpr uint32_t kNoVexOp = ~uint32_t{0};
uint32_t vex_op_number(const VexEncoding& encoding, const VexOp& op);
const VexOp& vex_op(uint32_t number);

// AVX: protected mode, CR4.OSXSAVE, SSE and AVX in XCR0, and not CR0.TS (SDM 2A 2.4, table 2-14 and
// those behind it).
inline bool avx_enabled(const Cpu& cpu) {
  constexpr uint64_t kOsxsave = 1U << 18, kSseAndAvx = 6;
  return (cpu.xcr0 & kSseAndAvx) == kSseAndAvx && (cpu.cr4 & kOsxsave) != 0 &&
         !is_real_or_vm86(cpu);
}
inline bool avx_usable(const Cpu& cpu) {
  constexpr uint64_t kTaskSwitched = 1U << 3;
  return avx_enabled(cpu) && (cpu.cr0 & kTaskSwitched) == 0;
}
// #UD or #NM.
Step avx_unusable(Cpu& cpu);

// VEX.W as it counts: outside 64-bit mode it means nothing for general registers, nor for what has
// them in the other form of its operand.
bool vex_w(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands);

Handler bind_vex(Decoded& decoded);         // vex.cpp
Handler bind_vex_masked(Decoded& decoded);  // vex_masked.cpp: VMASKMOV, VPMASKMOV, gathers

}  // namespace trapeze::soft::exec
