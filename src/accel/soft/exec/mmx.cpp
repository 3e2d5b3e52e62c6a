// MMX: the host's MMX instruction on the guest's registers, the host's x87 unit left empty behind.
// Also what moves between MMX and XMM registers.
#include "accel/soft/exec/sse_float.h"
#include "accel/soft/exec/sse_integer_ops.h"
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {
namespace {

#define TRAPEZE_DEFINE_OP(NAME, TEXT)                          \
  struct NAME {                                                \
    static uint64_t run(uint64_t dst, uint64_t src) {          \
      asm volatile("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t" TEXT \
                   " %%mm1, %%mm0\n\tmovq %%mm0, %0\n\temms"   \
                   : "+m"(dst)                                 \
                   : "m"(src)                                  \
                   : "mm0", "mm1");                            \
      return dst;                                              \
    }                                                          \
  };
TRAPEZE_MMX_AND_XMM_OPS(TRAPEZE_DEFINE_OP)
#undef TRAPEZE_DEFINE_OP

// Immediate forms are simple enough to say.
uint64_t shuffle_words(uint64_t src, uint8_t order) {
  uint64_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= ((src >> (((order >> (2 * i)) & 3U) * 16)) & 0xffffU) << (16 * i);
  }
  return result;
}
uint64_t align_right(uint64_t dst, uint64_t src, uint8_t bytes) {
  if (bytes >= 16) return 0;
  const auto both = static_cast<unsigned __int128>(dst) << 64 | src;
  return static_cast<uint64_t>(both >> (8 * bytes));
}

// --- where operand 1 comes from
struct MmxReg {
  static bool get(Cpu& cpu, const Insn& insn, uint64_t& value) {
    value = mmx(cpu, insn.src);
    return true;
  }
};
template <typename UInt>
struct Gpr {
  static bool get(Cpu& cpu, const Insn& insn, uint64_t& value) {
    value = reg<UInt>(cpu, insn.src);
    return true;
  }
};
template <typename UInt>
struct Mem {
  static bool get(Cpu& cpu, const Insn& insn, uint64_t& value) {
    UInt narrow = 0;
    if (!load<UInt>(cpu, insn, narrow)) return false;
    value = narrow;
    return true;
  }
};

// Operand 1 of the two-operand instructions; insn.aux: 0 for a register, else the size in memory
// (4 for PUNPCKLxx). MMX is too rare to have a handler for each kind.
bool any_source(Cpu& cpu, const Insn& insn, uint64_t& value) {
  if (insn.aux == 0) return MmxReg::get(cpu, insn, value);
  if (insn.aux == 4) return Mem<uint32_t>::get(cpu, insn, value);
  return Mem<uint64_t>::get(cpu, insn, value);
}
bool begin_op(Cpu& cpu, const Insn& insn, uint64_t& src) {
  if (!mmx_usable(cpu) || !any_source(cpu, insn, src)) return false;
  mmx_transition(cpu);
  return true;
}

// `mm = Op::run(mm, operand 1)`.
template <typename Op>
Step mmx_op(Cpu& cpu, const Insn& insn) {
  uint64_t src = 0;
  if (!begin_op(cpu, insn, src)) return Step::Fault;
  set_mmx(cpu, insn.dst, Op::run(mmx(cpu, insn.dst), src));
  return Step::Next;
}
template <typename Op>
Handler bind_op(Decoded& decoded) {
  decoded.insn.aux = static_cast<uint8_t>(decoded.is_mem(1) ? decoded.size(1) : 0);
  return &handler<mmx_op<Op>>;
}

template <typename UInt>
Step from_gpr(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, reg<UInt>(cpu, insn.src));
  return Step::Next;
}

struct Copy {
  static uint64_t run(uint64_t, uint64_t src) { return src; }
};

template <typename Op>
Step shift_by_immediate(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, Op::run(mmx(cpu, insn.dst), insn.aux));
  return Step::Next;
}

template <typename Source>
Step pshufw(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  uint64_t src = 0;
  if (!Source::get(cpu, insn, src)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, shuffle_words(src, insn.aux));
  return Step::Next;
}
template <typename Source>
Step palignr(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  uint64_t src = 0;
  if (!Source::get(cpu, insn, src)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, align_right(mmx(cpu, insn.dst), src, insn.aux));
  return Step::Next;
}
template <typename Source>
Step pinsrw(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  uint64_t src = 0;
  if (!Source::get(cpu, insn, src)) return Step::Fault;
  mmx_transition(cpu);
  const unsigned shift = (insn.aux & 3U) * 16;
  const uint64_t rest = mmx(cpu, insn.dst) & ~(uint64_t{0xffff} << shift);
  set_mmx(cpu, insn.dst, rest | (src & 0xffffU) << shift);
  return Step::Next;
}
Step pextrw(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_reg<uint64_t>(cpu, insn.dst, (mmx(cpu, insn.src) >> ((insn.aux & 3U) * 16)) & 0xffffU);
  return Step::Next;
}
Step pmovmskb(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  // The sign bits of the bytes, gathered: byte i's lands in bit 56 + i of the product.
  const uint64_t signs = (mmx(cpu, insn.src) >> 7) & 0x0101'0101'0101'0101U;
  set_reg<uint64_t>(cpu, insn.dst, (signs * 0x0102'0408'1020'4080U) >> 56);
  return Step::Next;
}

// --- MOVD, MOVQ, MOVNTQ from an MMX register
template <typename UInt>
Step to_gpr(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_reg<UInt>(cpu, insn.dst, static_cast<UInt>(mmx(cpu, insn.src)));
  return Step::Next;
}
template <typename UInt>
Step to_memory(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  if (!store<UInt>(cpu, insn, static_cast<UInt>(mmx(cpu, insn.src)))) return Step::Fault;
  mmx_transition(cpu);
  return Step::Next;
}
Handler bind_move(Decoded& decoded) {
  if (is_mmx(decoded, 0)) {
    if (is_mmx(decoded, 1) || decoded.is_mem(1)) return bind_op<Copy>(decoded);
    return decoded.size(1) == 8 ? &handler<from_gpr<uint64_t>> : &handler<from_gpr<uint32_t>>;
  }
  const bool wide = decoded.size(0) == 8;
  if (decoded.is_mem(0))
    return wide ? &handler<to_memory<uint64_t>> : &handler<to_memory<uint32_t>>;
  return wide ? &handler<to_gpr<uint64_t>> : &handler<to_gpr<uint32_t>>;
}

Step movq2dq(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_xmm(cpu, insn.dst, _mm_cvtsi64_si128(static_cast<int64_t>(mmx(cpu, insn.src))));
  return Step::Next;
}
Step movdq2q(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, xmm_low<uint64_t>(cpu, insn.src));
  return Step::Next;
}

// As any MMX instruction, but with all registers empty.
// instruction).
Step emms(Cpu& cpu, const Insn&) {
  if (!mmx_usable(cpu)) return Step::Fault;
  mmx_transition(cpu);
  cpu.fpu.empty = 0xff;
  return Step::Next;
}

Handler bind_elements(Decoded& decoded) {
  const bool from_mem = decoded.is_mem(1);
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_PSHUFW:
      decoded.insn.aux = immediate8(decoded);
      return from_mem ? &handler<pshufw<Mem<uint64_t>>> : &handler<pshufw<MmxReg>>;
    case ZYDIS_MNEMONIC_PALIGNR:
      decoded.insn.aux = immediate8(decoded);
      return from_mem ? &handler<palignr<Mem<uint64_t>>> : &handler<palignr<MmxReg>>;
    case ZYDIS_MNEMONIC_PINSRW:
      decoded.insn.aux = immediate8(decoded);
      return from_mem ? &handler<pinsrw<Mem<uint16_t>>> : &handler<pinsrw<Gpr<uint16_t>>>;
    case ZYDIS_MNEMONIC_PEXTRW:
      decoded.insn.aux = immediate8(decoded);
      return &handler<pextrw>;
    case ZYDIS_MNEMONIC_PMOVMSKB:
      return &handler<pmovmskb>;
    default:
      return nullptr;
  }
}

Handler bind_shift(Decoded& decoded) {
  decoded.insn.aux = immediate8(decoded);
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
#define TRAPEZE_CASE(NAME, TEXT) \
  case ZYDIS_MNEMONIC_##NAME:    \
    return &handler<shift_by_immediate<NAME>>;
    TRAPEZE_SHIFT_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_mmx(Decoded& decoded) {
  const auto mnemonic = static_cast<unsigned>(decoded.zy.mnemonic);
  if (mnemonic == ZYDIS_MNEMONIC_EMMS) return &handler<emms>;
  const bool first = is_mmx(decoded, 0);
  const bool second = is_mmx(decoded, 1);
  if (!first && !second) return nullptr;
  if (decoded.is_imm(1)) return bind_shift(decoded);
  switch (mnemonic) {
#define TRAPEZE_CASE(NAME, TEXT) \
  case ZYDIS_MNEMONIC_##NAME:    \
    return bind_op<NAME>(decoded);
    TRAPEZE_MMX_AND_XMM_OPS(TRAPEZE_CASE)
#undef TRAPEZE_CASE
    case ZYDIS_MNEMONIC_MOVD:
    case ZYDIS_MNEMONIC_MOVQ:
    case ZYDIS_MNEMONIC_MOVNTQ:
      return bind_move(decoded);
    case ZYDIS_MNEMONIC_MOVQ2DQ:
      use_xmm_slots(decoded);
      return &handler<movq2dq>;
    case ZYDIS_MNEMONIC_MOVDQ2Q:
      use_xmm_slots(decoded);
      return &handler<movdq2q>;
    default:
      return bind_elements(decoded);
  }
}

}  // namespace trapeze::soft::exec
