// How each instruction is translated, by mnemonic.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>

namespace trapeze::soft {

enum class Form : uint8_t {
  Interpret,  // left to the interpreter
  Plain,      // re-encoded with other registers and a rewritten memory operand
  Nothing,    // NOPs and prefetches
  Lea,
  Push,
  Pop,
  Leave,
  Jump,
  JumpIf,
  Call,
  Return,
  PushFlags,
  DisableInterrupts,
  EnableInterrupts,
  SwapGs,
  CompareExchangeWide,  // CMPXCHG8B, CMPXCHG16B
  ReadSegment,          // MOV of a segment register to a general one
  X87,
  String,  // REP MOVS, REP STOS
};

// True for what needs the SSE unit: XMM registers or MXCSR.
bool uses_sse_state(const ZydisDecodedInstruction& zy);

// True for x87 instructions that run on the host's unit while it holds the guest's state.
bool uses_x87_state(const ZydisDecodedInstruction& zy);
// Those of them that leave FIP alone (SDM 1 8.1.8).
bool is_x87_control(ZydisMnemonic mnemonic);

Form form_of(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands);

// VEX-encoded instructions (vex.cpp).
inline bool is_vex(const ZydisDecodedInstruction& zy) {
  return zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}
// Those with vector registers; so not those of BMI.
bool uses_avx_state(const ZydisDecodedInstruction& zy);
// VMASKMOV, VPMASKMOV: access only those elements of their memory operand that a mask chooses.
bool is_masked_move(const ZydisDecodedInstruction& zy);
// Memory operands must be aligned to their size.
bool is_aligned_vex(const ZydisDecodedInstruction& zy);

// SSE instructions whose 16-byte memory operand may be anywhere.
bool may_be_unaligned(ZydisMnemonic mnemonic);

}  // namespace trapeze::soft
