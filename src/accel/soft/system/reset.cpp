// Power-up, INIT, SIPI, and the way to and from the canonical state.
#include <cstring>

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/segment_access.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/foreign_state.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/msr.h"
#include "arch/x86/msr_travel.h"
#include "base/bytes.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kCr0AtReset = 0x60000010;
constexpr uint64_t kCr0CacheBits = 3U << 29;  // CD, NW

void reset_segments(Cpu& cpu) {
  for (Segment& segment : cpu.seg) segment = {0, 0xffff, 0x93, 0};
  cpu.seg[kCs] = {0xffff0000, 0xffff, 0x9b, 0xf000};
  cpu.tr = {0, 0xffff, 0x8b, 0};
  cpu.ldtr = {0, 0xffff, 0x82, 0};
  cpu.gdtr = {0, 0xffff};
  cpu.idtr = {0, 0xffff};
}

// What RESET and INIT have in common (SDM 3A table 10-1).
void reset_common(Cpu& cpu) {
  std::memset(cpu.gpr, 0, sizeof(cpu.gpr));
  cpu.gpr[kRdx] = cpu.env->model->cpuid(1, 0, cpu.env->id).eax;
  cpu.rip = 0xfff0;
  cpu.arith = 0;
  cpu.rflags_system = 2;
  cpu.cpl = 0;
  reset_segments(cpu);
  cpu.cr2 = 0;
  cpu.cr4 = 0;
  cpu.cr8_shadow = 0;
  cpu.efer = 0;
  std::memset(cpu.dr, 0, sizeof(cpu.dr));
  cpu.dr6 = kDr6Fixed;
  cpu.dr7 = kDr7Fixed;
  cpu.fault = {};
  cpu.shadow = 0;
  cpu.nmi_blocked = false;
  cpu.nmi_pending = false;
  cpu.halted = false;
  cpu.shut_down = false;
  cpu.irq_window_wanted = false;
  cpu.stepping = false;
  cpu.single_step_dr6 = 0;
}

void finish(Cpu& cpu) {
  load_cr3(cpu, cpu.cr3, false);
  flush_tlb(cpu);
  update_mode(cpu);
}

// The FXSAVE image keeps ST(i) in stack order; FpuState in register order (SDM 1 10.5.1).
void fpu_to_image(const FpuState& fpu, std::span<std::byte> image) {
  store_le<uint16_t>(image, 0, fpu.fcw);
  store_le<uint16_t>(image, 2, fpu.fsw);
  store_le<uint8_t>(image, 4, static_cast<uint8_t>(~fpu.empty));
  store_le<uint16_t>(image, 6, fpu.fop);
  store_le<uint64_t>(image, 8, fpu.fip);
  store_le<uint64_t>(image, 16, fpu.fdp);
  store_le<uint32_t>(image, 24, fpu.mxcsr);
  store_le<uint32_t>(image, 28, 0xffff);  // MXCSR_MASK
  const unsigned top = (fpu.fsw >> 11) & 7U;
  for (unsigned i = 0; i < 8; ++i)
    std::memcpy(image.data() + 32 + i * 16, fpu.st[(top + i) % 8], 10);
  std::memcpy(image.data() + 160, fpu.xmm, sizeof(fpu.xmm));
}

// The XSAVE header says which components it holds (SDM 1 13.4.2); others have their initial values.
void ymm_to_image(const Cpu& cpu, std::span<std::byte> image) {
  store_le<uint64_t>(image, kXsaveLegacyBytes, kXcr0X87 | kXcr0Sse | kXcr0Avx);
  std::memcpy(image.data() + kXsaveAvxOffset, cpu.ymm_high, sizeof(cpu.ymm_high));
}

void ymm_from_image(Cpu& cpu, std::span<const std::byte> image) {
  if (image.size() < kXsaveAvxOffset + kXsaveAvxBytes) return;
  if ((load_le<uint64_t>(image, kXsaveLegacyBytes) & kXcr0Avx) == 0) return;
  std::memcpy(cpu.ymm_high, image.data() + kXsaveAvxOffset, sizeof(cpu.ymm_high));
}

void fpu_from_image(FpuState& fpu, std::span<const std::byte> image) {
  fpu = {};
  fpu.fcw = load_le<uint16_t>(image, 0);
  fpu.fsw = load_le<uint16_t>(image, 2);
  fpu.empty = static_cast<uint8_t>(~load_le<uint8_t>(image, 4));
  fpu.fop = load_le<uint16_t>(image, 6);
  fpu.fip = load_le<uint64_t>(image, 8);
  fpu.fdp = load_le<uint64_t>(image, 16);
  fpu.mxcsr = load_le<uint32_t>(image, 24) & 0xffffU;
  const unsigned top = (fpu.fsw >> 11) & 7U;
  for (unsigned i = 0; i < 8; ++i)
    std::memcpy(fpu.st[(top + i) % 8], image.data() + 32 + i * 16, 10);
  std::memcpy(fpu.xmm, image.data() + 160, sizeof(fpu.xmm));
}

}  // namespace

void reset_cpu(Cpu& cpu) {
  reset_common(cpu);
  cpu.cr0 = kCr0AtReset;
  cpu.cr3 = 0;
  cpu.fpu = {};
  cpu.fpu.fcw = 0x40;  // RESET, unlike FNINIT, leaves it so (SDM 3A table 10-1)
  cpu.fpu.mxcsr = 0x1f80;
  std::memset(cpu.ymm_high, 0, sizeof(cpu.ymm_high));
  cpu.xcr0 = kXcr0X87;
  cpu.waiting_for_sipi = cpu.env->id.raw() != 0;
  reset_msrs(cpu);
  finish(cpu);
}

void init_cpu(Cpu& cpu) {
  const uint64_t cache_bits = cpu.cr0 & kCr0CacheBits;
  reset_common(cpu);
  cpu.cr0 = 0x10 | cache_bits;
  cpu.cr3 = 0;
  cpu.waiting_for_sipi = cpu.env->id.raw() != 0;
  finish(cpu);
}

void start_at_sipi(Cpu& cpu, uint8_t vector) {
  cpu.seg[kCs].selector = static_cast<uint16_t>(vector << 8);
  cpu.seg[kCs].base = static_cast<uint64_t>(vector) << 12;
  cpu.rip = 0;
  cpu.waiting_for_sipi = false;
  cpu.halted = false;
  update_mode(cpu);
}

VcpuState save_cpu(const Cpu& cpu) {
  VcpuState state;
  std::memcpy(state.gpr.data(), cpu.gpr, sizeof(state.gpr));
  state.rip = cpu.rip;
  state.rflags = rflags(cpu);
  for (unsigned i = 0; i < 6; ++i) state.segments[i] = cpu.seg[i];
  state.tr = cpu.tr;
  state.ldtr = cpu.ldtr;
  state.gdtr = cpu.gdtr;
  state.idtr = cpu.idtr;
  state.cr0 = cpu.cr0;
  state.cr2 = cpu.cr2;
  state.cr3 = cpu.cr3;
  state.cr4 = cpu.cr4;
  state.cr8 = cpu.env->lapic != nullptr ? cpu.env->lapic->tpr() : cpu.cr8_shadow;
  state.efer = cpu.efer;
  for (unsigned i = 0; i < 4; ++i) state.dr[i] = cpu.dr[i];
  state.dr6 = cpu.dr6;
  state.dr7 = cpu.dr7;
  state.xcr0 = cpu.xcr0;
  const bool has_avx = (cpu.xcr0 & kXcr0Avx) != 0;
  state.xsave.resize(has_avx ? xsave_area_bytes(cpu.xcr0) : kXsaveLegacyBytes);
  fpu_to_image(cpu.fpu, state.xsave);
  if (has_avx) ymm_to_image(cpu, state.xsave);
  save_msrs(cpu, state.msrs);
  if (cpu.shut_down) {
    state.mp_state = MpState::Shutdown;
  } else if (cpu.waiting_for_sipi) {
    state.mp_state = MpState::WaitForSipi;
  } else if (cpu.halted) {
    state.mp_state = MpState::Halted;
  }
  state.events.exception_pending = cpu.fault.pending;
  state.events.exception_vector = cpu.fault.vector;
  state.events.exception_has_error_code = cpu.fault.has_error_code;
  state.events.exception_error_code = cpu.fault.error_code;
  state.events.nmi_pending = cpu.nmi_pending;
  state.events.nmi_blocked = cpu.nmi_blocked;
  state.events.interrupt_shadow = cpu.shadow;
  return state;
}

namespace {

void restore_events(Cpu& cpu, const VcpuState& state) {
  cpu.fault = {};
  cpu.fault.pending = state.events.exception_pending;
  cpu.fault.vector = state.events.exception_vector;
  cpu.fault.has_error_code = state.events.exception_has_error_code;
  cpu.fault.error_code = state.events.exception_error_code;
  cpu.fault.cr2 = state.cr2;
  cpu.nmi_pending = state.events.nmi_pending;
  cpu.nmi_blocked = state.events.nmi_blocked;
  cpu.shadow = state.events.interrupt_shadow;
  cpu.halted = state.mp_state == MpState::Halted;
  cpu.waiting_for_sipi = state.mp_state == MpState::WaitForSipi;
  cpu.shut_down = state.mp_state == MpState::Shutdown;
  cpu.irq_window_wanted = false;
  cpu.stepping = false;
  cpu.single_step_dr6 = 0;
}

uint8_t cpl_of(const Cpu& cpu) {
  if (!is_protected(cpu)) return 0;
  if (is_vm86(cpu)) return 3;
  return static_cast<uint8_t>(segment_dpl(cpu.seg[kSs].access));
}

}  // namespace

Result<void> restore_cpu(Cpu& cpu, const VcpuState& state) {
  TRY(check_foreign_state(cpu, state));
  std::memset(cpu.gpr, 0, sizeof(cpu.gpr));
  std::memcpy(cpu.gpr, state.gpr.data(), sizeof(state.gpr));
  cpu.rip = state.rip;
  cpu.arith = to_arithmetic(state.rflags);
  cpu.rflags_system = (state.rflags & ~kArithmeticFlags) | 2;
  for (unsigned i = 0; i < 6; ++i) cpu.seg[i] = state.segments[i];
  cpu.tr = state.tr;
  cpu.ldtr = state.ldtr;
  cpu.gdtr = state.gdtr;
  cpu.idtr = state.idtr;
  cpu.cr0 = state.cr0;
  cpu.cr2 = state.cr2;
  cpu.cr3 = state.cr3;
  cpu.cr4 = state.cr4;
  cpu.cr8_shadow = state.cr8;
  cpu.efer = state.efer;
  for (unsigned i = 0; i < 4; ++i) cpu.dr[i] = state.dr[i];
  cpu.dr6 = state.dr6;
  cpu.dr7 = state.dr7;
  cpu.xcr0 = state.xcr0;
  fpu_from_image(cpu.fpu, std::span(state.xsave).first(kXsaveLegacyBytes));
  std::memset(cpu.ymm_high, 0, sizeof(cpu.ymm_high));
  if ((cpu.xcr0 & kXcr0Avx) != 0) ymm_from_image(cpu, state.xsave);
  cpu.cpl = cpl_of(cpu);
  reset_msrs(cpu);
  for (const MsrValue& msr : state.msrs) {
    if (!restore_msr(cpu, msr.index, msr.value) && !may_stay_behind(msr.index, msr.value))
      return fail("vCPU state: MSR {:#x} does not take the value {:#x}", msr.index, msr.value);
  }
  restore_events(cpu, state);
  finish(cpu);
  const bool pae_paging = (cpu.cr0 >> 31) != 0 && (cpu.cr4 & (1U << 5)) != 0 && !is_long_mode(cpu);
  if (pae_paging && !load_pdptes(cpu, cpu.cr3)) {
    cpu.fault = {};
    return fail("vCPU state: CR3 {:#x} holds no valid page-directory pointers", cpu.cr3);
  }
  if (needs_stepping(cpu)) cpu.attention.fetch_or(kAttnStep, std::memory_order_relaxed);
  cpu.attention.fetch_or(kAttnInterrupt, std::memory_order_relaxed);
  return {};
}

}  // namespace trapeze::soft
