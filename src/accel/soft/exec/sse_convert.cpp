// SSE conversions between floats and general registers, and comparisons into EFLAGS.
#include "accel/soft/exec/sse_float.h"
#include "accel/soft/exec/sse_float_ops.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {
namespace {

// --- CVTSI2SS, CVTSI2SD: the integer comes as the low part of a vector
template <typename UInt>
struct GprSource {
  static bool try_get(Cpu& cpu, const Insn& insn, __m128i& value) {
    value = _mm_cvtsi64_si128(static_cast<int64_t>(uint64_t{reg<UInt>(cpu, insn.src)}));
    return true;
  }
  static bool get(Cpu& cpu, const Insn& insn, __m128i& value) { return try_get(cpu, insn, value); }
};

#define TRAPEZE_DEFINE_OP(NAME, TEXT, CONVERT)                      \
  struct NAME {                                                     \
    static constexpr Tiny kTiny = Tiny::Never;                      \
    static __m128i run(__m128i dst, __m128i src, uint8_t) {         \
      asm volatile(TEXT " %1, %0" : "+x"(dst) : "r"(CONVERT(src))); \
      return dst;                                                   \
    }                                                               \
  };
TRAPEZE_DEFINE_OP(IntToSingle, "cvtsi2ssl", _mm_cvtsi128_si32)
TRAPEZE_DEFINE_OP(LongToSingle, "cvtsi2ssq", _mm_cvtsi128_si64)
TRAPEZE_DEFINE_OP(IntToDouble, "cvtsi2sdl", _mm_cvtsi128_si32)
TRAPEZE_DEFINE_OP(LongToDouble, "cvtsi2sdq", _mm_cvtsi128_si64)
#undef TRAPEZE_DEFINE_OP

template <typename Op32, typename Op64>
Handler bind_from_int(Decoded& decoded) {
  use_xmm_slots(decoded);
  const bool wide = decoded.size(1) == 8;
  if (decoded.is_mem(1))
    return wide ? &two_way_handler<Float<Op64, MemSource<MemForm::Low8>>>
                : &two_way_handler<Float<Op32, MemSource<MemForm::Low4>>>;
  return wide ? &two_way_handler<Float<Op64, GprSource<uint64_t>>>
              : &two_way_handler<Float<Op32, GprSource<uint32_t>>>;
}

// --- CVT(T)SS2SI, CVT(T)SD2SI
#define TRAPEZE_DEFINE_OP(NAME, TEXT, FORM)                \
  struct NAME {                                            \
    template <typename UInt>                               \
    static UInt run(__m128i src) {                         \
      UInt dst;                                            \
      asm volatile(TEXT " %1, %0" : "=r"(dst) : "x"(src)); \
      return dst;                                          \
    }                                                      \
  };
TRAPEZE_FLOAT_TO_INT_OPS(TRAPEZE_DEFINE_OP)
#undef TRAPEZE_DEFINE_OP

template <typename Op, typename UInt, typename Source>
struct FloatToInt {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !all_masked(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    set_reg<UInt>(cpu, insn.dst, Op::template run<UInt>(src));
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    begin_careful(cpu);
    const UInt result = Op::template run<UInt>(src);
    if (!end_careful(cpu, false)) return Step::Fault;
    set_reg<UInt>(cpu, insn.dst, result);
    return Step::Next;
  }
};

template <typename Op, MemForm Form>
Handler bind_to_int(Decoded& decoded) {
  use_xmm_slots(decoded);
  const bool wide = decoded.size(0) == 8;
  if (decoded.is_mem(1))
    return wide ? &two_way_handler<FloatToInt<Op, uint64_t, MemSource<Form>>>
                : &two_way_handler<FloatToInt<Op, uint32_t, MemSource<Form>>>;
  return wide ? &two_way_handler<FloatToInt<Op, uint64_t, RegSource>>
              : &two_way_handler<FloatToInt<Op, uint32_t, RegSource>>;
}

// --- (U)COMISS, (U)COMISD
#define TRAPEZE_DEFINE_OP(NAME, TEXT, FORM)                                                        \
  struct NAME {                                                                                    \
    static ArithmeticFlags run(__m128i dst, __m128i src) {                                         \
      ArithmeticFlags flags;                                                                       \
      asm volatile(TEXT " %2, %1\n\tlahf\n\tseto %%al" : "=a"(flags) : "x"(dst), "x"(src) : "cc"); \
      return flags;                                                                                \
    }                                                                                              \
  };
TRAPEZE_FLOAT_COMPARE_OPS(TRAPEZE_DEFINE_OP)
#undef TRAPEZE_DEFINE_OP

template <typename Op, typename Source>
struct FloatCompare {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !all_masked(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    cpu.arith = Op::run(xmm(cpu, insn.dst), src);
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    begin_careful(cpu);
    const ArithmeticFlags flags = Op::run(xmm(cpu, insn.dst), src);
    if (!end_careful(cpu, false)) return Step::Fault;
    cpu.arith = flags;
    return Step::Next;
  }
};

}  // namespace

Handler bind_sse_convert(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_CVTSI2SS:
      return bind_from_int<IntToSingle, LongToSingle>(decoded);
    case ZYDIS_MNEMONIC_CVTSI2SD:
      return bind_from_int<IntToDouble, LongToDouble>(decoded);
#define TRAPEZE_CASE(NAME, TEXT, FORM) \
  case ZYDIS_MNEMONIC_##NAME:          \
    return bind_to_int<NAME, MemForm::FORM>(decoded);
      TRAPEZE_FLOAT_TO_INT_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
#define TRAPEZE_CASE(NAME, TEXT, FORM) \
  case ZYDIS_MNEMONIC_##NAME:          \
    return pick_source<FloatCompare, NAME, MemForm::FORM>(decoded);
      TRAPEZE_FLOAT_COMPARE_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
