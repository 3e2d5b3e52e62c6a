// SSE instructions between MMX and XMM registers or memory: conversions and masked stores.
#include "accel/soft/exec/sse_float.h"
#include "accel/soft/exec/vector_classes.h"

namespace trapeze::soft::exec {
namespace {

#define TRAPEZE_DEFINE_OP(NAME, TEXT)                                                              \
  struct NAME {                                                                                    \
    static __m128i run(__m128i dst, uint64_t src) {                                                \
      asm volatile("movq %1, %%mm0\n\t" TEXT " %%mm0, %0\n\temms" : "+x"(dst) : "m"(src) : "mm0"); \
      return dst;                                                                                  \
    }                                                                                              \
  };
TRAPEZE_DEFINE_OP(Cvtpi2ps, "cvtpi2ps")
TRAPEZE_DEFINE_OP(Cvtpi2pd, "cvtpi2pd")
#undef TRAPEZE_DEFINE_OP
#define TRAPEZE_DEFINE_OP(NAME, TEXT)                                                           \
  struct NAME {                                                                                 \
    static uint64_t run(__m128i src) {                                                          \
      uint64_t dst;                                                                             \
      asm volatile(TEXT " %1, %%mm0\n\tmovq %%mm0, %0\n\temms" : "=m"(dst) : "x"(src) : "mm0"); \
      return dst;                                                                               \
    }                                                                                           \
  };
TRAPEZE_DEFINE_OP(Cvtps2pi, "cvtps2pi")
TRAPEZE_DEFINE_OP(Cvttps2pi, "cvttps2pi")
TRAPEZE_DEFINE_OP(Cvtpd2pi, "cvtpd2pi")
TRAPEZE_DEFINE_OP(Cvttpd2pi, "cvttpd2pi")
#undef TRAPEZE_DEFINE_OP

template <typename Op>
bool convert_to_xmm(Cpu& cpu, const Insn& insn, uint64_t src) {
  begin_careful(cpu);
  const __m128i result = Op::run(xmm(cpu, insn.dst), src);
  if (!end_careful(cpu, false)) return false;
  set_xmm(cpu, insn.dst, result);
  return true;
}
template <typename Op>
Step from_mmx(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  if (!mmx_usable(cpu)) return Step::Fault;
  if (!convert_to_xmm<Op>(cpu, insn, mmx(cpu, insn.src))) return Step::Fault;
  mmx_transition(cpu);
  return Step::Next;
}
// From memory no MMX register is involved, and the x87 state stays (so do the processors, also
// where SDM 2A says otherwise of CVTPI2PS).
template <typename Op>
Step from_memory(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  uint64_t src = 0;
  if (!load<uint64_t>(cpu, insn, src)) return Step::Fault;
  return convert_to_xmm<Op>(cpu, insn, src) ? Step::Next : Step::Fault;
}
template <typename Op>
Handler bind_from_mmx(Decoded& decoded) {
  use_xmm_slots(decoded);
  return decoded.is_mem(1) ? &handler<from_memory<Op>> : &handler<from_mmx<Op>>;
}

template <typename Op, typename Source>
Step to_mmx(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  if (!mmx_usable(cpu)) return Step::Fault;
  __m128i src;
  if (!Source::get(cpu, insn, src)) return Step::Fault;
  begin_careful(cpu);
  const uint64_t result = Op::run(src);
  if (!end_careful(cpu, false)) return Step::Fault;
  mmx_transition(cpu);
  set_mmx(cpu, insn.dst, result);
  return Step::Next;
}
template <typename Op, MemForm Form>
Handler bind_to_mmx(Decoded& decoded) {
  use_xmm_slots(decoded);
  return decoded.is_mem(1) ? &handler<to_mmx<Op, MemSource<Form>>>
                           : &handler<to_mmx<Op, RegSource>>;
}

Step maskmovdqu(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  const uint8_t* bytes = cpu.fpu.xmm[insn.dst / 16];
  return store_masked_bytes(cpu, insn, bytes, cpu.fpu.xmm[insn.src / 16], 16) ? Step::Next
                                                                              : Step::Fault;
}
Step maskmovq(Cpu& cpu, const Insn& insn) {
  if (!mmx_usable(cpu)) return Step::Fault;
  const uint8_t* bytes = cpu.fpu.st[insn.dst & 7U];
  if (!store_masked_bytes(cpu, insn, bytes, cpu.fpu.st[insn.src & 7U], 8)) return Step::Fault;
  mmx_transition(cpu);
  return Step::Next;
}

}  // namespace

bool store_masked_bytes(Cpu& cpu, const Insn& insn, const uint8_t* bytes, const uint8_t* mask,
                        unsigned count) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, count, Access::Write, linear)) return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag == tag_of(linear, count)) {
    auto* host = static_cast<uint8_t*>(entry.host(linear));
    for (unsigned i = 0; i < count; ++i) {
      if ((mask[i] & 0x80U) != 0) store_host<uint8_t>(host + i, bytes[i]);
    }
    return true;
  }
  for (unsigned i = 0; i < count; ++i) {
    if ((mask[i] & 0x80U) != 0 && !probe_write(cpu, linear + i, 1, insn.seg)) return false;
  }
  for (unsigned i = 0; i < count; ++i) {
    if ((mask[i] & 0x80U) != 0 && !slow_write(cpu, linear + i, bytes + i, 1, insn.seg))
      return false;
  }
  return true;
}

void use_rdi(Decoded& decoded) {
  Insn& insn = decoded.insn;
  insn.base = kRdi * 8;
  insn.index = kZeroReg * 8;
  insn.disp = 0;
  insn.seg = kDs;
  const auto attributes = decoded.zy.attributes;
  if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES) != 0) insn.seg = kEs;
  if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS) != 0) insn.seg = kCs;
  if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS) != 0) insn.seg = kSs;
  if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS) != 0) insn.seg = kFs;
  if ((attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) insn.seg = kGs;
  const bool flat = decoded.code_size == CodeSize::Code64 && insn.seg != kFs && insn.seg != kGs;
  if (flat && insn.seg != kSs) insn.seg = kDs;
  if (!flat || decoded.zy.address_width != 64) insn.flags |= kSlowAddress;
}

Handler bind_sse_mmx(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
      return bind_from_mmx<Cvtpi2ps>(decoded);
    case ZYDIS_MNEMONIC_CVTPI2PD:
      return bind_from_mmx<Cvtpi2pd>(decoded);
    case ZYDIS_MNEMONIC_CVTPS2PI:
      return bind_to_mmx<Cvtps2pi, MemForm::Low8>(decoded);
    case ZYDIS_MNEMONIC_CVTTPS2PI:
      return bind_to_mmx<Cvttps2pi, MemForm::Low8>(decoded);
    case ZYDIS_MNEMONIC_CVTPD2PI:
      return bind_to_mmx<Cvtpd2pi, MemForm::Aligned16>(decoded);
    case ZYDIS_MNEMONIC_CVTTPD2PI:
      return bind_to_mmx<Cvttpd2pi, MemForm::Aligned16>(decoded);
    case ZYDIS_MNEMONIC_MASKMOVDQU:
      use_xmm_slots(decoded);
      use_rdi(decoded);
      return &handler<maskmovdqu>;
    case ZYDIS_MNEMONIC_MASKMOVQ:
      use_rdi(decoded);
      return &handler<maskmovq>;
    default:
      return nullptr;
  }
}

}  // namespace trapeze::soft::exec
