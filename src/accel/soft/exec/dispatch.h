// How a handler is made from an instruction's semantics, and how one instruction leads to the next.
#pragma once

#include "accel/soft/decode/insn.h"

namespace trapeze::soft::exec {

// Ends the block: sets cpu.rip from how the instruction ended. Out of line, it is the rare way.
void leave_block(Cpu& cpu, const Insn* insn, Step step);

// Jumps to the handler of the next instruction. The empty asm makes the compiler add to `insn`
// first and jump through memory: two instructions instead of four.
[[gnu::always_inline]] inline void run_next(Cpu& cpu, const Insn* insn) {
  ++insn;
  asm("" : "+r"(insn));
  return insn->run(cpu, insn);
}

// A handler around `Semantic`, a function Step(Cpu&, const Insn&). The call behind Step::Next is a
// tail call in optimised builds; elsewhere the depth is bounded by the block's length.
template <auto Semantic>
void handler(Cpu& cpu, const Insn* insn) {
  const Step step = Semantic(cpu, *insn);
  if (step == Step::Next) [[likely]] {
    return run_next(cpu, insn);
  }
  if (step == Step::Branch) return;  // rip is set already; known at compile time for branches
  leave_block(cpu, insn, step);
}

// For instructions that always end a block by Step::Branch and cannot fault: saves the test.
template <auto Semantic>
void branch_handler(Cpu& cpu, const Insn* insn) {
  Semantic(cpu, *insn);
}

// Each class answers for its mnemonics, or returns nullptr.
Handler bind_integer(Decoded& decoded);  // exec/bind_integer.cpp
Handler bind_system(Decoded& decoded);   // system/bind_system.cpp
Handler bind_vector(Decoded& decoded);   // exec/bind_vector.cpp: x87, MMX, SSE

// Raises #UD: what nobody answers for, and what the CPU model does not offer.
Handler undefined_opcode();

}  // namespace trapeze::soft::exec
