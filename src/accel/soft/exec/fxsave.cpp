// FXSAVE, FXRSTOR, LDMXCSR, STMXCSR.
#include <cstring>

#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/fpu.h"
#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft {

void fx_save(const FpuState& fpu, FxImage& image, bool wide) {
  image.fcw = fpu.fcw;
  image.fsw = fpu.fsw;
  image.tags = static_cast<uint8_t>(~fpu.empty);
  image.fop = fpu.fop & 0x7ffU;
  image.fip = static_cast<uint32_t>(fpu.fip);
  image.fdp = static_cast<uint32_t>(fpu.fdp);
  image.fcs = wide ? static_cast<uint16_t>(fpu.fip >> 32) : uint16_t{0};
  image.fip_high = wide ? static_cast<uint16_t>(fpu.fip >> 48) : uint16_t{0};
  image.fds = wide ? static_cast<uint16_t>(fpu.fdp >> 32) : uint16_t{0};
  image.fdp_high = wide ? static_cast<uint16_t>(fpu.fdp >> 48) : uint16_t{0};
  image.mxcsr = fpu.mxcsr;
  image.mxcsr_mask = kMxcsrValid;
  const unsigned top = fpu_top(fpu);
  for (unsigned i = 0; i < 8; ++i) {
    std::memset(image.st[i], 0, sizeof(image.st[i]));
    std::memcpy(image.st[i], fpu.st[(top + i) & 7U], 10);
  }
  std::memcpy(image.xmm, fpu.xmm, sizeof(image.xmm));
}

void fx_restore_x87(FpuState& fpu, const FxImage& image, bool wide) {
  fpu.fcw = valid_fcw(image.fcw);
  fpu.fsw = with_summary(image.fsw, fpu.fcw);
  fpu.empty = static_cast<uint8_t>(~image.tags);
  fpu.fop = image.fop & 0x7ffU;
  fpu.fip = image.fip;
  fpu.fdp = image.fdp;
  if (wide) {
    fpu.fip |= static_cast<uint64_t>(image.fcs) << 32 | static_cast<uint64_t>(image.fip_high) << 48;
    fpu.fdp |= static_cast<uint64_t>(image.fds) << 32 | static_cast<uint64_t>(image.fdp_high) << 48;
  }
  const unsigned top = fpu_top(fpu);
  for (unsigned i = 0; i < 8; ++i) {
    uint8_t* st = fpu.st[(top + i) & 7U];
    std::memset(st, 0, sizeof(fpu.st[0]));
    std::memcpy(st, image.st[i], 10);
  }
}

void fx_restore(FpuState& fpu, const FxImage& image, bool wide) {
  fx_restore_x87(fpu, image, wide);
  fpu.mxcsr = image.mxcsr & kMxcsrValid;
  std::memcpy(fpu.xmm, image.xmm, sizeof(fpu.xmm));
}

namespace exec {
namespace {

constexpr unsigned kXmmEnd64 = 416, kXmmEnd32 = 288;  // 16 or 8 XMM registers
constexpr unsigned kFxAlign = 16;

// `Wide`: REX.W, 64-bit instruction and data pointers (FXSAVE64).
template <bool Wide>
Step fxsave(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  FxImage image;
  fx_save(cpu.fpu, image, Wide);
  image.mxcsr = guest_mxcsr(cpu);
  const unsigned size = is_code64(cpu) ? kXmmEnd64 : kXmmEnd32;
  // Of an area on two pages the processor asks for the last byte first.
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, size, Access::Write, linear)) return Step::Fault;
  const bool is_aligned = linear % kFxAlign == 0;
  if (is_aligned && !probe_write(cpu, linear + kFxImageSize - 1, 1, insn.seg)) return Step::Fault;
  return store_block(cpu, insn, &image, size, kFxAlign) ? Step::Next : Step::Fault;
}

template <bool Wide>
Step fxrstor(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, false)) return Step::Fault;
  FxImage image;
  // Outside 64-bit mode XMM8..15 stay.
  std::memcpy(image.xmm, cpu.fpu.xmm, sizeof(image.xmm));
  const unsigned size = is_code64(cpu) ? kXmmEnd64 : kXmmEnd32;
  if (!load_block(cpu, insn, &image, size, kFxAlign)) return Step::Fault;
  if ((image.mxcsr & ~kMxcsrValid) != 0) return raise(cpu, kGP, 0);
  fx_restore(cpu.fpu, image, Wide);
  set_guest_mxcsr(cpu, image.mxcsr);
  return Step::Next;
}

Step ldmxcsr(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  uint32_t value = 0;
  if (!load<uint32_t>(cpu, insn, value)) return Step::Fault;
  if ((value & ~kMxcsrValid) != 0) return raise(cpu, kGP, 0);
  set_guest_mxcsr(cpu, value);
  return Step::Next;
}

Step stmxcsr(Cpu& cpu, const Insn& insn) {
  if (!sse_usable(cpu)) return sse_unusable(cpu);
  return store<uint32_t>(cpu, insn, guest_mxcsr(cpu)) ? Step::Next : Step::Fault;
}

}  // namespace

Handler bind_fxsave(Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_FXSAVE:
      return &handler<fxsave<false>>;
    case ZYDIS_MNEMONIC_FXSAVE64:
      return &handler<fxsave<true>>;
    case ZYDIS_MNEMONIC_FXRSTOR:
      return &handler<fxrstor<false>>;
    case ZYDIS_MNEMONIC_FXRSTOR64:
      return &handler<fxrstor<true>>;
    case ZYDIS_MNEMONIC_LDMXCSR:
      return &handler<ldmxcsr>;
    case ZYDIS_MNEMONIC_STMXCSR:
      return &handler<stmxcsr>;
    default:
      return nullptr;
  }
}

}  // namespace exec
}  // namespace trapeze::soft
