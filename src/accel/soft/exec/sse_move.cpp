// SSE moves: MOV*, non-temporal ones (the hint is dropped), masks, insert and extract.

#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {
namespace {

// --- to an XMM register
struct Copy {
  static __m128i run(__m128i, __m128i src) { return src; }
};
struct CopyLow8 {
  static __m128i run(__m128i, __m128i src) { return _mm_move_epi64(src); }
};
struct MergeLow4 {
  static __m128i run(__m128i dst, __m128i src) {
    return _mm_castps_si128(_mm_move_ss(_mm_castsi128_ps(dst), _mm_castsi128_ps(src)));
  }
};
struct MergeLow8 {
  static __m128i run(__m128i dst, __m128i src) {
    return _mm_castpd_si128(_mm_move_sd(_mm_castsi128_pd(dst), _mm_castsi128_pd(src)));
  }
};
struct LowToHigh {
  static __m128i run(__m128i dst, __m128i src) { return _mm_unpacklo_epi64(dst, src); }
};
struct HighToLow {
  static __m128i run(__m128i dst, __m128i src) { return _mm_unpackhi_epi64(src, dst); }
};

// --- from an XMM register to memory
struct Low {
  static __m128i run(__m128i src) { return src; }
};
struct High {
  static __m128i run(__m128i src) { return _mm_unpackhi_epi64(src, src); }
};
template <typename Part, MemForm Form>
struct Store {
  static bool fast(Cpu& cpu, const Insn& insn) {
    return sse_usable(cpu) && try_store_vector<Form>(cpu, insn, Part::run(xmm(cpu, insn.src)));
  }
  static Step full(Cpu& cpu, const Insn& insn) {
    if (!sse_usable(cpu)) return sse_unusable(cpu);
    const bool stored = store_vector<Form>(cpu, insn, Part::run(xmm(cpu, insn.src)));
    return stored ? Step::Next : Step::Fault;
  }
};

// --- general registers
template <typename UInt>
Step from_gpr(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) [[unlikely]]
    return sse_unusable(cpu);
  const auto value = static_cast<int64_t>(uint64_t{reg<UInt>(cpu, insn.src)});
  set_xmm(cpu, insn.dst, _mm_cvtsi64_si128(value));
  return Step::Next;
}
template <typename UInt>
Step to_gpr(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) [[unlikely]]
    return sse_unusable(cpu);
  set_reg<UInt>(cpu, insn.dst, xmm_low<UInt>(cpu, insn.src));
  return Step::Next;
}

// Sign masks zero the whole general register.
struct MaskPs {
  static int run(__m128i src) { return _mm_movemask_ps(_mm_castsi128_ps(src)); }
};
struct MaskPd {
  static int run(__m128i src) { return _mm_movemask_pd(_mm_castsi128_pd(src)); }
};
struct MaskB {
  static int run(__m128i src) { return _mm_movemask_epi8(src); }
};
template <typename Op>
Step sign_mask(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) [[unlikely]]
    return sse_unusable(cpu);
  set_reg<uint64_t>(cpu, insn.dst, static_cast<unsigned>(Op::run(xmm(cpu, insn.src))));
  return Step::Next;
}

// PINSRx: element aux (cut to the number of elements) of dst. PEXTRx, EXTRACTPS: the reverse;
// a register is zero-extended.
template <typename UInt>
Step insert_reg(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  const UInt value = reg<UInt>(cpu, insn.src);
  std::memcpy(cpu.fpu.xmm[insn.dst / 16] + insn.aux * sizeof(UInt), &value, sizeof(UInt));
  return Step::Next;
}
template <typename UInt>
Step insert_mem(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  UInt value;
  if (!load<UInt>(cpu, insn, value)) return Step::Fault;
  std::memcpy(cpu.fpu.xmm[insn.dst / 16] + insn.aux * sizeof(UInt), &value, sizeof(UInt));
  return Step::Next;
}
template <typename UInt>
Step extract_reg(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  UInt value;
  std::memcpy(&value, cpu.fpu.xmm[insn.src / 16] + insn.aux * sizeof(UInt), sizeof(UInt));
  set_reg<uint64_t>(cpu, insn.dst, value);
  return Step::Next;
}
template <typename UInt>
Step extract_mem(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  UInt value;
  std::memcpy(&value, cpu.fpu.xmm[insn.src / 16] + insn.aux * sizeof(UInt), sizeof(UInt));
  return store<UInt>(cpu, insn, value) ? Step::Next : Step::Fault;
}

template <typename UInt>
Handler bind_insert(Decoded& decoded) {
  use_xmm_slots(decoded);
  decoded.insn.aux = static_cast<uint8_t>(immediate8(decoded) % (16 / sizeof(UInt)));
  return decoded.is_mem(1) ? &handler<insert_mem<UInt>> : &handler<insert_reg<UInt>>;
}
template <typename UInt>
Handler bind_extract(Decoded& decoded) {
  use_xmm_slots(decoded);
  decoded.insn.aux = static_cast<uint8_t>(immediate8(decoded) % (16 / sizeof(UInt)));
  return decoded.is_mem(0) ? &handler<extract_mem<UInt>> : &handler<extract_reg<UInt>>;
}

template <typename Op, typename Source>
Handler binary(Decoded& decoded) {
  use_xmm_slots(decoded);
  return &two_way_handler<Binary<Op, Source>>;
}
template <typename Part, MemForm Form>
Handler store_part(Decoded& decoded) {
  use_xmm_slots(decoded);
  return &two_way_handler<Store<Part, Form>>;
}

// Whole registers; Form says whether alignment is required.
template <MemForm Form>
Handler bind_whole(Decoded& decoded) {
  if (decoded.is_mem(0)) return store_part<Low, Form>(decoded);
  if (decoded.is_mem(1)) return binary<Copy, MemSource<Form>>(decoded);
  return binary<Copy, RegSource>(decoded);
}

// MOVD, MOVQ: the MMX forms are mmx.cpp's.
Handler bind_movd_movq(Decoded& decoded) {
  use_xmm_slots(decoded);
  if (is_xmm(decoded, 0)) {
    const bool wide = decoded.size(1) == 8;
    if (is_xmm(decoded, 1)) return binary<CopyLow8, RegSource>(decoded);
    if (decoded.is_mem(1))
      return decoded.size(1) == 4 ? binary<Copy, MemSource<MemForm::Low4>>(decoded)
                                  : binary<Copy, MemSource<MemForm::Low8>>(decoded);
    return wide ? &handler<from_gpr<uint64_t>> : &handler<from_gpr<uint32_t>>;
  }
  const bool wide = decoded.size(0) == 8;
  if (decoded.is_mem(0))
    return wide ? store_part<Low, MemForm::Low8>(decoded) : store_part<Low, MemForm::Low4>(decoded);
  return wide ? &handler<to_gpr<uint64_t>> : &handler<to_gpr<uint32_t>>;
}

template <MemForm Form, typename Merge>
Handler bind_scalar(Decoded& decoded) {
  if (decoded.is_mem(0)) return store_part<Low, Form>(decoded);
  if (decoded.is_mem(1)) return binary<Copy, MemSource<Form>>(decoded);
  return binary<Merge, RegSource>(decoded);
}

Handler bind_half(Decoded& decoded, bool high) {
  using Mem = MemSource<MemForm::Low8>;
  if (decoded.is_mem(0))
    return high ? store_part<High, MemForm::Low8>(decoded)
                : store_part<Low, MemForm::Low8>(decoded);
  return high ? binary<LowToHigh, Mem>(decoded) : binary<MergeLow8, Mem>(decoded);
}

Handler bind_masks_and_elements(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_MOVMSKPS:
      use_xmm_slots(decoded);
      return &handler<sign_mask<MaskPs>>;
    case ZYDIS_MNEMONIC_MOVMSKPD:
      use_xmm_slots(decoded);
      return &handler<sign_mask<MaskPd>>;
    case ZYDIS_MNEMONIC_PMOVMSKB:
      use_xmm_slots(decoded);
      return &handler<sign_mask<MaskB>>;
    case ZYDIS_MNEMONIC_PINSRB:
      return bind_insert<uint8_t>(decoded);
    case ZYDIS_MNEMONIC_PINSRW:
      return bind_insert<uint16_t>(decoded);
    case ZYDIS_MNEMONIC_PINSRD:
      return bind_insert<uint32_t>(decoded);
    case ZYDIS_MNEMONIC_PINSRQ:
      return bind_insert<uint64_t>(decoded);
    case ZYDIS_MNEMONIC_PEXTRB:
      return bind_extract<uint8_t>(decoded);
    case ZYDIS_MNEMONIC_PEXTRW:
      return bind_extract<uint16_t>(decoded);
    case ZYDIS_MNEMONIC_PEXTRD:
    case ZYDIS_MNEMONIC_EXTRACTPS:
      return bind_extract<uint32_t>(decoded);
    case ZYDIS_MNEMONIC_PEXTRQ:
      return bind_extract<uint64_t>(decoded);
    default:
      return nullptr;
  }
}

}  // namespace

Handler bind_sse_move(Decoded& decoded) {
  const auto mnemonic = static_cast<unsigned>(decoded.zy.mnemonic);
  // The string instruction MOVSD and the MMX forms are not ours.
  if (!is_xmm(decoded, 0) && !is_xmm(decoded, 1)) return nullptr;
  if (is_mmx(decoded, 0) || is_mmx(decoded, 1)) return nullptr;
  switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
      return bind_whole<MemForm::Aligned16>(decoded);
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
      return bind_whole<MemForm::Any16>(decoded);
    case ZYDIS_MNEMONIC_MOVD:
    case ZYDIS_MNEMONIC_MOVQ:
      return bind_movd_movq(decoded);
    case ZYDIS_MNEMONIC_MOVSS:
      return bind_scalar<MemForm::Low4, MergeLow4>(decoded);
    case ZYDIS_MNEMONIC_MOVSD:
      return bind_scalar<MemForm::Low8, MergeLow8>(decoded);
    case ZYDIS_MNEMONIC_MOVHPS:
    case ZYDIS_MNEMONIC_MOVHPD:
      return bind_half(decoded, true);
    case ZYDIS_MNEMONIC_MOVLPS:
    case ZYDIS_MNEMONIC_MOVLPD:
      return bind_half(decoded, false);
    case ZYDIS_MNEMONIC_MOVHLPS:
      return binary<HighToLow, RegSource>(decoded);
    case ZYDIS_MNEMONIC_MOVLHPS:
      return binary<LowToHigh, RegSource>(decoded);
    default:
      return bind_masks_and_elements(decoded);
  }
}

}  // namespace trapeze::soft::exec
