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
};

// True for what needs the SSE unit: XMM registers or MXCSR.
bool uses_sse_state(const ZydisDecodedInstruction& zy);

Form form_of(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands);

// SSE instructions whose 16-byte memory operand may be anywhere.
bool may_be_unaligned(ZydisMnemonic mnemonic);

}  // namespace trapeze::soft
