// SSE instructions with two vector operands that do not touch MXCSR: the host's own instruction on
// the guest's registers.
#include "accel/soft/exec/sse_integer_ops.h"
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {
namespace {

#define TRAPEZE_DEFINE_OP(NAME, TEXT, ...)         \
  struct NAME {                                    \
    static __m128i run(__m128i dst, __m128i src) { \
      asm(TEXT " %1, %0" : "+x"(dst) : "x"(src));  \
      return dst;                                  \
    }                                              \
  };
TRAPEZE_MMX_AND_XMM_OPS(TRAPEZE_DEFINE_OP)
TRAPEZE_XMM_OPS(TRAPEZE_DEFINE_OP)
TRAPEZE_AES_OPS(TRAPEZE_DEFINE_OP)
#undef TRAPEZE_DEFINE_OP

// The mask is XMM0, implicitly.
#define TRAPEZE_DEFINE_BLEND(NAME, TEXT)                          \
  struct NAME {                                                   \
    static __m128i run(__m128i dst, __m128i src, __m128i mask) {  \
      asm(TEXT " %2, %1, %0" : "+x"(dst) : "x"(src), "Yz"(mask)); \
      return dst;                                                 \
    }                                                             \
  };
TRAPEZE_BLEND_OPS(TRAPEZE_DEFINE_BLEND)
#undef TRAPEZE_DEFINE_BLEND

// The mask is XMM0, implicitly.
template <typename Op, typename Source>
struct Blend {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src, xmm(cpu, xmm_slot(0))));
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src, xmm(cpu, xmm_slot(0))));
    return Step::Next;
  }
};

// An immediate count behaves as the same number in a register.
template <typename Op>
struct ShiftByImmediate {
  static bool fast(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) [[unlikely]]
      return false;
    set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), _mm_cvtsi32_si128(insn.aux)));
    return true;
  }
  static Step full(Cpu& cpu, const Insn&) { return sse_unusable(cpu); }
};

Handler bind_shift_by_immediate(Decoded& decoded) {
  use_xmm_slots(decoded);
  decoded.insn.aux = immediate8(decoded);
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
#define TRAPEZE_CASE(NAME, TEXT) \
  case ZYDIS_MNEMONIC_##NAME:    \
    return &two_way_handler<ShiftByImmediate<NAME>>;
    TRAPEZE_SHIFT_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_sse_integer(Decoded& decoded) {
  if (!is_xmm(decoded, 0)) return nullptr;
  if (decoded.is_imm(1)) return bind_shift_by_immediate(decoded);
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
#define TRAPEZE_CASE(NAME, TEXT) \
  case ZYDIS_MNEMONIC_##NAME:    \
    return pick_source<Binary, NAME, MemForm::Aligned16>(decoded);
    TRAPEZE_MMX_AND_XMM_OPS(TRAPEZE_CASE)
    TRAPEZE_AES_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
#define TRAPEZE_CASE(NAME, TEXT, FORM) \
  case ZYDIS_MNEMONIC_##NAME:          \
    return pick_source<Binary, NAME, MemForm::FORM>(decoded);
    TRAPEZE_XMM_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
#define TRAPEZE_CASE(NAME, TEXT) \
  case ZYDIS_MNEMONIC_##NAME:    \
    return pick_source<Blend, NAME, MemForm::Aligned16>(decoded);
    TRAPEZE_BLEND_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
