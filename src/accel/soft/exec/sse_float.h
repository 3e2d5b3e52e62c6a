// SSE arithmetic under MXCSR: the class of handlers, and the careful way for unmasked exceptions.
//
// As long as the guest masks all exceptions, an instruction is the host's own under the guest's
// rounding, and its flags collect in the host's MXCSR (exec/fpu.h). With an unmasked exception the
// instruction runs under masks and with clean flags; what it raised decides whether the guest gets
// #XM (and nothing but the flags has changed) or the result.
// Two things masked execution cannot tell, so that a handler of #XM may see one flag more or fewer:
// whether a result that over- or underflowed unmasked was inexact besides (PE), and what DPPS and
// DPPD raise between their multiplications and additions.
#pragma once

#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {

inline bool all_masked(const Cpu& cpu) { return (~cpu.fpu.mxcsr & kMxcsrMasks) == 0; }

// Which elements of a result may be tiny (denormal): with the underflow exception unmasked a tiny
// result raises it even when exact (SDM 1 4.9.1.5), which masked execution does not tell.
enum class Tiny : uint8_t { Never, Single, Double, AllSingles, AllDoubles };
bool has_tiny(Tiny kind, __m128i result);

void begin_careful(Cpu& cpu);
// False with #XM (or #UD without CR4.OSXMMEXCPT) pending.
bool end_careful(Cpu& cpu, bool tiny);

// `xmm = Op::run(xmm, operand 1, immediate)`.
template <typename Op, typename Source>
struct Float {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !all_masked(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src, insn.aux));
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    begin_careful(cpu);
    const __m128i result = Op::run(xmm(cpu, insn.dst), src, insn.aux);
    if (!end_careful(cpu, has_tiny(Op::kTiny, result))) return Step::Fault;
    set_xmm(cpu, insn.dst, result);
    return Step::Next;
  }
};

}  // namespace trapeze::soft::exec
