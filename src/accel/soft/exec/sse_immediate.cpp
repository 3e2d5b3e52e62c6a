// SSE instructions with an 8-bit immediate. The host needs the immediate in its code, so each
// instruction has a table of 256 little functions.
#include "accel/soft/exec/host_stubs.h"
#include "accel/soft/exec/sse_float.h"
#include "accel/soft/exec/sse_float_ops.h"
#include "accel/soft/exec/vector_classes.h"

#define TRAPEZE_DEFINE_STUBS(NAME, TEXT, ...)                                    \
  TRAPEZE_STUBS_256("trapeze_stubs_" #NAME, 8, TEXT " $0x\\h\\l, %xmm1, %xmm0"); \
  extern "C" const char trapeze_stubs_##NAME[];
TRAPEZE_INTEGER_IMM_OPS(TRAPEZE_DEFINE_STUBS)
TRAPEZE_FLOAT_IMM_OPS(TRAPEZE_DEFINE_STUBS)
#undef TRAPEZE_DEFINE_STUBS
TRAPEZE_STUBS_256("trapeze_stubs_PSLLDQ", 8, "pslldq $0x\\h\\l, %xmm0");
TRAPEZE_STUBS_256("trapeze_stubs_PSRLDQ", 8, "psrldq $0x\\h\\l, %xmm0");
extern "C" const char trapeze_stubs_PSLLDQ[];
extern "C" const char trapeze_stubs_PSRLDQ[];

namespace trapeze::soft::exec {
namespace {

template <const char* Table, Tiny TinyKind>
struct Stub {
  static constexpr Tiny kTiny = TinyKind;
  static __m128i run(__m128i dst, __m128i src, uint8_t immediate) {
    return vector_stub(Table, immediate)(dst, src);
  }
};

// A call is part of the operation here, so there is no frameless way worth a second copy.
template <typename Op, typename Source>
Step immediate_op(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) [[unlikely]]
    return sse_unusable(cpu);
  __m128i src;
  if (!Source::try_get(cpu, insn, src)) [[unlikely]] {
    __m128i slow;
    if (!Source::get(cpu, insn, slow)) return Step::Fault;
    src = slow;
  }
  set_xmm(cpu, insn.dst, Op::run(xmm(cpu, insn.dst), src, insn.aux));
  return Step::Next;
}

template <typename Op>
Step shift_bytes(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) [[unlikely]]
    return sse_unusable(cpu);
  const __m128i dst = xmm(cpu, insn.dst);
  set_xmm(cpu, insn.dst, Op::run(dst, dst, insn.aux));
  return Step::Next;
}

template <typename Op, MemForm Form>
Handler bind_integer_immediate(Decoded& decoded) {
  use_xmm_slots(decoded);
  decoded.insn.aux = immediate8(decoded);
  if (is_xmm(decoded, 1)) return &handler<immediate_op<Op, RegSource>>;
  // INSERTPS from memory takes the one element that there is (SDM 2A: COUNT_S is ignored).
  if (decoded.zy.mnemonic == ZYDIS_MNEMONIC_INSERTPS) decoded.insn.aux &= 0x3fU;
  return &handler<immediate_op<Op, MemSource<Form>>>;
}

template <typename Op, MemForm Form>
Handler bind_float_immediate(Decoded& decoded) {
  decoded.insn.aux = immediate8(decoded);
  return pick_source<Float, Op, Form>(decoded);
}

}  // namespace

Handler bind_sse_immediate(Decoded& decoded) {
  if (!is_xmm(decoded, 0)) return nullptr;
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
#define TRAPEZE_CASE(NAME, TEXT, FORM) \
  case ZYDIS_MNEMONIC_##NAME:          \
    return bind_integer_immediate<Stub<trapeze_stubs_##NAME, Tiny::Never>, MemForm::FORM>(decoded);
    TRAPEZE_INTEGER_IMM_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
#define TRAPEZE_CASE(NAME, TEXT, FORM, TINY) \
  case ZYDIS_MNEMONIC_##NAME:                \
    return bind_float_immediate<Stub<trapeze_stubs_##NAME, Tiny::TINY>, MemForm::FORM>(decoded);
    TRAPEZE_FLOAT_IMM_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    case ZYDIS_MNEMONIC_PSLLDQ:
      use_xmm_slots(decoded);
      decoded.insn.aux = immediate8(decoded);
      return &handler<shift_bytes<Stub<trapeze_stubs_PSLLDQ, Tiny::Never>>>;
    case ZYDIS_MNEMONIC_PSRLDQ:
      use_xmm_slots(decoded);
      decoded.insn.aux = immediate8(decoded);
      return &handler<shift_bytes<Stub<trapeze_stubs_PSRLDQ, Tiny::Never>>>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
