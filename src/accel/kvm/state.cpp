#include "accel/kvm/state.h"

#include <algorithm>
#include <cstring>

namespace trapeze::kvm {
namespace {

constexpr size_t kFxsaveBytes = 512;
constexpr size_t kXsaveHeaderBytes = 64;
constexpr uint64_t kLegacyComponents = 3;  // x87 and SSE, which the FXSAVE image holds
constexpr uint64_t kApicBaseEnabled = 1U << 11;

// Offsets in the local APIC page, in registers of 16 bytes (SDM 3A table 11-1).
constexpr unsigned kIsr = 0x10;
constexpr unsigned kIrr = 0x20;

kvm_dtable to_kvm(const DescriptorTable& table) {
  kvm_dtable result{};
  result.base = table.base;
  result.limit = table.limit;
  return result;
}

DescriptorTable from_kvm(const kvm_dtable& table) { return {table.base, table.limit}; }

}  // namespace

// Segment::access has the bits of the descriptor: type 0..3, S 4, DPL 5..6, P 7, AVL 12, L 13,
// D/B 14, G 15.
kvm_segment to_kvm(const Segment& segment) {
  const auto bit = [&](unsigned number) {
    return static_cast<uint8_t>((segment.access >> number) & 1U);
  };
  kvm_segment result{};
  result.base = segment.base;
  result.limit = segment.limit;
  result.selector = segment.selector;
  result.type = static_cast<uint8_t>(segment.access & 0xfU);
  result.s = bit(4);
  result.dpl = static_cast<uint8_t>((segment.access >> 5) & 3U);
  result.present = bit(7);
  result.avl = bit(12);
  result.l = bit(13);
  result.db = bit(14);
  result.g = bit(15);
  result.unusable = (segment.access & kSegmentUnusable) != 0 ? 1 : 0;
  return result;
}

Segment from_kvm(const kvm_segment& segment) {
  const auto bit = [](uint8_t value, unsigned number) { return (value & 1U) << number; };
  Segment result;
  result.base = segment.base;
  result.limit = segment.limit;
  result.selector = segment.selector;
  result.access = (segment.type & 0xfU) | bit(segment.s, 4) | (segment.dpl & 3U) << 5 |
                  bit(segment.present, 7) | bit(segment.avl, 12) | bit(segment.l, 13) |
                  bit(segment.db, 14) | bit(segment.g, 15);
  if (segment.unusable != 0) result.access |= kSegmentUnusable;
  return result;
}

kvm_regs regs_of(const VcpuState& state) {
  kvm_regs regs{};
  const auto& gpr = state.gpr;
  regs.rax = gpr[kRax];
  regs.rcx = gpr[kRcx];
  regs.rdx = gpr[kRdx];
  regs.rbx = gpr[kRbx];
  regs.rsp = gpr[kRsp];
  regs.rbp = gpr[kRbp];
  regs.rsi = gpr[kRsi];
  regs.rdi = gpr[kRdi];
  regs.r8 = gpr[kR8];
  regs.r9 = gpr[kR9];
  regs.r10 = gpr[kR10];
  regs.r11 = gpr[kR11];
  regs.r12 = gpr[kR12];
  regs.r13 = gpr[kR13];
  regs.r14 = gpr[kR14];
  regs.r15 = gpr[kR15];
  regs.rip = state.rip;
  regs.rflags = state.rflags;
  return regs;
}

void take_regs(VcpuState& state, const kvm_regs& regs) {
  state.gpr = {regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
               regs.r8,  regs.r9,  regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15};
  state.rip = regs.rip;
  state.rflags = regs.rflags;
}

kvm_sregs sregs_of(const VcpuState& state) {
  kvm_sregs sregs{};
  sregs.es = to_kvm(state.segments[kEs]);
  sregs.cs = to_kvm(state.segments[kCs]);
  sregs.ss = to_kvm(state.segments[kSs]);
  sregs.ds = to_kvm(state.segments[kDs]);
  sregs.fs = to_kvm(state.segments[kFs]);
  sregs.gs = to_kvm(state.segments[kGs]);
  sregs.tr = to_kvm(state.tr);
  sregs.ldt = to_kvm(state.ldtr);
  sregs.gdt = to_kvm(state.gdtr);
  sregs.idt = to_kvm(state.idtr);
  sregs.cr0 = state.cr0;
  sregs.cr2 = state.cr2;
  sregs.cr3 = state.cr3;
  sregs.cr4 = state.cr4;
  sregs.cr8 = state.cr8;
  sregs.efer = state.efer;
  sregs.apic_base = state.apic_base;
  return sregs;
}

void take_sregs(VcpuState& state, const kvm_sregs& sregs) {
  state.segments[kEs] = from_kvm(sregs.es);
  state.segments[kCs] = from_kvm(sregs.cs);
  state.segments[kSs] = from_kvm(sregs.ss);
  state.segments[kDs] = from_kvm(sregs.ds);
  state.segments[kFs] = from_kvm(sregs.fs);
  state.segments[kGs] = from_kvm(sregs.gs);
  state.tr = from_kvm(sregs.tr);
  state.ldtr = from_kvm(sregs.ldt);
  state.gdtr = from_kvm(sregs.gdt);
  state.idtr = from_kvm(sregs.idt);
  state.cr0 = sregs.cr0;
  state.cr2 = sregs.cr2;
  state.cr3 = sregs.cr3;
  state.cr4 = sregs.cr4;
  state.cr8 = sregs.cr8;
  state.efer = sregs.efer;
  state.apic_base = sregs.apic_base;
}

kvm_debugregs debugregs_of(const VcpuState& state) {
  kvm_debugregs debug{};
  std::copy(state.dr.begin(), state.dr.end(), debug.db);
  debug.dr6 = state.dr6;
  debug.dr7 = state.dr7;
  return debug;
}

void take_debugregs(VcpuState& state, const kvm_debugregs& debug) {
  std::copy(std::begin(debug.db), std::end(debug.db), state.dr.begin());
  state.dr6 = debug.dr6;
  state.dr7 = debug.dr7;
}

kvm_lapic_state lapic_of(const VcpuState& state) {
  kvm_lapic_state lapic{};
  for (size_t i = 0; i < state.lapic.size(); ++i) {
    std::memcpy(lapic.regs + 16 * i, &state.lapic[i], sizeof(uint32_t));
  }
  return lapic;
}

void take_lapic(VcpuState& state, const kvm_lapic_state& lapic) {
  for (size_t i = 0; i < state.lapic.size(); ++i) {
    std::memcpy(&state.lapic[i], lapic.regs + 16 * i, sizeof(uint32_t));
  }
}

kvm_vcpu_events events_of(const VcpuState& state) {
  const PendingEvents& from = state.events;
  kvm_vcpu_events events{};
  // "Injected" is for events that must be delivered before anything else happens; one that was
  // raised and not delivered is just that.
  events.exception.injected = from.exception_pending ? 1 : 0;
  events.exception.nr = from.exception_vector;
  events.exception.has_error_code = from.exception_has_error_code ? 1 : 0;
  events.exception.error_code = from.exception_error_code;
  events.interrupt.injected = from.interrupt_injected ? 1 : 0;
  events.interrupt.nr = from.interrupt_vector;
  // KVM has them the other way round: bit 0 MOV SS, bit 1 STI (KVM_X86_SHADOW_INT_*).
  if (from.interrupt_shadow == 1) events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
  if (from.interrupt_shadow == 2) events.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
  events.nmi.pending = from.nmi_pending ? 1 : 0;
  events.nmi.masked = from.nmi_blocked ? 1 : 0;
  events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  return events;
}

void take_events(VcpuState& state, const kvm_vcpu_events& events) {
  PendingEvents& to = state.events;
  to = {};
  to.exception_pending = events.exception.injected != 0 || events.exception.pending != 0;
  if (to.exception_pending) {
    to.exception_vector = events.exception.nr;
    to.exception_has_error_code = events.exception.has_error_code != 0;
    to.exception_error_code = to.exception_has_error_code ? events.exception.error_code : 0;
  }
  if ((events.interrupt.shadow & KVM_X86_SHADOW_INT_STI) != 0) to.interrupt_shadow = 1;
  if ((events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS) != 0) to.interrupt_shadow = 2;
  // An NMI under injection has not reached the guest: it is pending, and blocks nothing yet.
  to.nmi_pending = events.nmi.injected != 0 || events.nmi.pending != 0;
  to.nmi_blocked = events.nmi.masked != 0 && events.nmi.injected == 0;
  // A software interrupt is repeated by running its instruction again.
  if (events.interrupt.injected == 0 || events.interrupt.soft != 0) return;
  const uint8_t vector = events.interrupt.nr;
  uint32_t& in_service = state.lapic[kIsr + vector / 32U];
  const uint32_t bit = 1U << (vector % 32U);
  const bool is_from_apic = (state.apic_base & kApicBaseEnabled) != 0 && (in_service & bit) != 0;
  if (is_from_apic) {
    in_service &= ~bit;
    state.lapic[kIrr + vector / 32U] |= bit;
  } else {
    to.interrupt_injected = true;
    to.interrupt_vector = vector;
  }
}

Result<uint32_t> mp_state_of(const VcpuState& state) {
  switch (state.mp_state) {
    case MpState::Runnable:
      return uint32_t{KVM_MP_STATE_RUNNABLE};
    case MpState::Halted:
      return uint32_t{KVM_MP_STATE_HALTED};
    case MpState::WaitForSipi:
      // Not UNINITIALIZED: that one ignores a SIPI without an INIT before, and the INIT may have
      // come before the state was saved.
      return uint32_t{KVM_MP_STATE_INIT_RECEIVED};
    case MpState::Shutdown:
      return fail("vCPU state: the CPU had shut down (triple fault); KVM cannot start from there");
  }
  return fail("vCPU state: unknown run state {}", static_cast<unsigned>(state.mp_state));
}

MpState from_kvm_mp_state(uint32_t mp_state) {
  switch (mp_state) {
    case KVM_MP_STATE_HALTED:
      return MpState::Halted;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
      return MpState::WaitForSipi;
    default:
      return MpState::Runnable;
  }
}

std::vector<std::byte> canonical_xsave(std::span<const std::byte> image, uint64_t xcr0) {
  const bool is_legacy = (xcr0 & ~kLegacyComponents) == 0;
  const size_t size = is_legacy ? std::min(image.size(), kFxsaveBytes) : image.size();
  return {image.begin(), image.begin() + static_cast<ptrdiff_t>(size)};
}

Result<std::vector<std::byte>> kvm_xsave_image(const VcpuState& state, size_t size) {
  if (state.xsave.size() < kFxsaveBytes) {
    return fail("vCPU state: the FPU image has {} bytes, {} are needed", state.xsave.size(),
                kFxsaveBytes);
  }
  const auto beyond = std::span(state.xsave).subspan(std::min(size, state.xsave.size()));
  if (std::any_of(beyond.begin(), beyond.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return fail(
        "vCPU state: the register image has {} bytes, this host takes {}: the CPU it comes "
        "from has register sets that this one lacks",
        state.xsave.size(), size);
  }
  std::vector<std::byte> image(size);
  std::copy_n(state.xsave.begin(), std::min(size, state.xsave.size()), image.begin());
  if (state.xsave.size() < kFxsaveBytes + kXsaveHeaderBytes) {
    // XSTATE_BV: the FXSAVE part counts (SDM 1 13.4.2).
    std::memcpy(image.data() + kFxsaveBytes, &kLegacyComponents, sizeof(kLegacyComponents));
  }
  return image;
}

}  // namespace trapeze::kvm
