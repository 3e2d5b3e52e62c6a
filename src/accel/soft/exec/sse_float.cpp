#include "accel/soft/exec/sse_float.h"

#include "accel/soft/exec/sse_float_ops.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint32_t kBeforeComputation = kMxcsrIe | kMxcsrDe | kMxcsrZe;

template <typename UInt>
bool is_denormal(UInt bits) {
  constexpr auto kExponent =
      static_cast<UInt>(sizeof(UInt) == 4 ? uint64_t{0xff} << 23 : uint64_t{0x7ff} << 52);
  constexpr UInt kSign = UInt{1} << (8 * sizeof(UInt) - 1);
  return (bits & kExponent) == 0 && (bits & static_cast<UInt>(~kSign)) != 0;
}

template <typename UInt>
bool any_denormal(__m128i value, unsigned count) {
  UInt elements[16 / sizeof(UInt)];
  std::memcpy(elements, &value, sizeof(elements));
  bool any = false;
  for (unsigned i = 0; i < count; ++i) any |= is_denormal(elements[i]);
  return any;
}

// The memory clobber-free asm is volatile because it also writes the host's MXCSR.
#define TRAPEZE_DEFINE_OP(NAME, TEXT, FORM, TINY)           \
  struct NAME {                                             \
    static constexpr Tiny kTiny = Tiny::TINY;               \
    static __m128i run(__m128i dst, __m128i src, uint8_t) { \
      asm volatile(TEXT " %1, %0" : "+x"(dst) : "x"(src));  \
      return dst;                                           \
    }                                                       \
  };
TRAPEZE_FLOAT_OPS(TRAPEZE_DEFINE_OP)
#undef TRAPEZE_DEFINE_OP

}  // namespace

bool has_tiny(Tiny kind, __m128i result) {
  switch (kind) {
    case Tiny::Never:
      return false;
    case Tiny::Single:
      return any_denormal<uint32_t>(result, 1);
    case Tiny::Double:
      return any_denormal<uint64_t>(result, 1);
    case Tiny::AllSingles:
      return any_denormal<uint32_t>(result, 4);
    case Tiny::AllDoubles:
      return any_denormal<uint64_t>(result, 2);
  }
  return false;
}

void begin_careful(Cpu& cpu) {
  cpu.fpu.mxcsr = guest_mxcsr(cpu);
  uint32_t control = (cpu.fpu.mxcsr & ~kMxcsrFlags) | kMxcsrMasks;
  // Flush-to-zero acts only while underflow is masked (SDM 1 10.2.3.3).
  if ((cpu.fpu.mxcsr & (kMxcsrUe << 7)) == 0) control &= ~kMxcsrFtz;
  set_host_mxcsr(control);
}

bool end_careful(Cpu& cpu, bool tiny) {
  const uint32_t unmasked = ~(cpu.fpu.mxcsr >> 7) & kMxcsrFlags;
  uint32_t raised = host_mxcsr() & kMxcsrFlags;
  // An unmasked exception found in the operands stops the computation, and with it all that the
  // computation would have raised (SDM 1 11.5.2 and 11.5.4).
  if ((raised & kBeforeComputation & unmasked) != 0)
    raised &= kBeforeComputation;
  else if (tiny && (unmasked & kMxcsrUe) != 0)
    raised |= kMxcsrUe;
  cpu.fpu.mxcsr |= raised;
  set_host_mxcsr(cpu.fpu.mxcsr | kMxcsrMasks);
  if ((raised & unmasked) == 0) return true;
  raise(cpu, (cpu.cr4 & kCr4Osxmmexcpt) != 0 ? kXM : kUD);
  return false;
}

Handler bind_sse_float(Decoded& decoded) {
  if (!is_xmm(decoded, 0)) return nullptr;
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
#define TRAPEZE_CASE(NAME, TEXT, FORM, TINY) \
  case ZYDIS_MNEMONIC_##NAME:                \
    return pick_source<Float, NAME, MemForm::FORM>(decoded);
    TRAPEZE_FLOAT_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
