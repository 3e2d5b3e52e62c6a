// SSE4.2 string comparison (PCMPxSTRx) and PTEST: vector operands, EFLAGS and registers as results.
#include "accel/soft/exec/host_stubs.h"
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

// A stub takes the strings in xmm0 and xmm1, their lengths in rdi and rsi (only the explicit forms
// look at them) and the place for its Answer in rdx. The REX.W encodings do for the 32-bit lengths
// too, sign-extended: lengths saturate at 16 in absolute value (SDM 2B "PCMPESTRI").
#define TRAPEZE_STRING_STUBS(NAME, OPCODE)                  \
  TRAPEZE_STUBS_256(NAME, 64,                               \
                    "mov %rdi, %rax\n"                      \
                    "mov %rdx, %r8\n"                       \
                    "mov %rsi, %rdx\n"                      \
                    ".byte 0x66, 0x48, 0x0f, 0x3a, " OPCODE \
                    ", 0xc1, 0x\\h\\l\n"                    \
                    "lahf\n"                                \
                    "seto %al\n"                            \
                    "movdqa %xmm0, (%r8)\n"                 \
                    "mov %ecx, 16(%r8)\n"                   \
                    "mov %ax, 20(%r8)")
TRAPEZE_STRING_STUBS("trapeze_stubs_PCMPESTRM", "0x60");
TRAPEZE_STRING_STUBS("trapeze_stubs_PCMPESTRI", "0x61");
TRAPEZE_STRING_STUBS("trapeze_stubs_PCMPISTRM", "0x62");
TRAPEZE_STRING_STUBS("trapeze_stubs_PCMPISTRI", "0x63");
extern "C" const char trapeze_stubs_PCMPESTRM[];
extern "C" const char trapeze_stubs_PCMPESTRI[];
extern "C" const char trapeze_stubs_PCMPISTRM[];
extern "C" const char trapeze_stubs_PCMPISTRI[];

namespace trapeze::soft::exec {
namespace {

struct alignas(16) Answer {
  __m128i mask;           // ..M: the new XMM0
  uint32_t index;         // ..I: the new ECX
  ArithmeticFlags flags;  // as LAHF and SETO give them
};
static_assert(offsetof(Answer, index) == 16 && offsetof(Answer, flags) == 20);
using StringStub = void (*)(__m128i, __m128i, int64_t, int64_t, Answer*);
constexpr unsigned kStringStubStride = 64;

enum class Result : uint8_t { Mask, Index };

int64_t explicit_length(const Cpu& cpu, const Insn& insn, GprIndex index) {
  const uint64_t value = cpu.gpr[index];
  return insn.width == 8 ? static_cast<int64_t>(value)
                         : static_cast<int32_t>(static_cast<uint32_t>(value));
}

template <const char* Table, Result Kind, typename Source>
Step compare_strings(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  __m128i src;
  if (!Source::try_get(cpu, insn, src) && !Source::get(cpu, insn, src)) return Step::Fault;
  const auto stub = reinterpret_cast<StringStub>(reinterpret_cast<uintptr_t>(Table) +
                                                 insn.aux * kStringStubStride);
  Answer answer;
  stub(xmm(cpu, insn.dst), src, explicit_length(cpu, insn, kRax), explicit_length(cpu, insn, kRdx),
       &answer);
  if constexpr (Kind == Result::Mask) {
    set_xmm(cpu, xmm_slot(0), answer.mask);
  } else {
    cpu.gpr[kRcx] = answer.index;
  }
  cpu.arith = answer.flags;
  return Step::Next;
}

// Memory operands need no alignment (SDM 2B, exception type 4 with a footnote).
template <const char* Table, Result Kind>
Handler bind_compare(Decoded& decoded) {
  use_xmm_slots(decoded);
  decoded.insn.aux = immediate8(decoded);
  decoded.insn.width = decoded.zy.raw.rex.W != 0 ? 8 : 4;
  if (is_xmm(decoded, 1)) return &handler<compare_strings<Table, Kind, RegSource>>;
  return &handler<compare_strings<Table, Kind, MemSource<MemForm::Any16>>>;
}

struct Ptest {
  static ArithmeticFlags run(__m128i dst, __m128i src) {
    ArithmeticFlags flags;
    asm("ptest %2, %1\n\tlahf\n\tseto %%al" : "=a"(flags) : "x"(dst), "x"(src) : "cc");
    return flags;
  }
};

template <typename Op, typename Source>
struct TestBits {
  static bool fast(Cpu& cpu, const Insn& insn) {
    __m128i src;
    if (!sse_usable(cpu) || !Source::try_get(cpu, insn, src)) [[unlikely]]
      return false;
    cpu.arith = Op::run(xmm(cpu, insn.dst), src);
    return true;
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    __m128i src;
    if (!Source::get(cpu, insn, src)) return Step::Fault;
    cpu.arith = Op::run(xmm(cpu, insn.dst), src);
    return Step::Next;
  }
};

}  // namespace

Handler bind_sse_string(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_PCMPESTRM:
      return bind_compare<trapeze_stubs_PCMPESTRM, Result::Mask>(decoded);
    case ZYDIS_MNEMONIC_PCMPESTRI:
      return bind_compare<trapeze_stubs_PCMPESTRI, Result::Index>(decoded);
    case ZYDIS_MNEMONIC_PCMPISTRM:
      return bind_compare<trapeze_stubs_PCMPISTRM, Result::Mask>(decoded);
    case ZYDIS_MNEMONIC_PCMPISTRI:
      return bind_compare<trapeze_stubs_PCMPISTRI, Result::Index>(decoded);
    case ZYDIS_MNEMONIC_PTEST:
      return pick_source<TestBits, Ptest, MemForm::Aligned16>(decoded);
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
