// KvmVcpu: complete save and restore, and the dump for people.
#include <fmt/format.h>

#include <cstring>

#include "accel/kvm/ioctl.h"
#include "accel/kvm/msrs.h"
#include "accel/kvm/state.h"
#include "accel/kvm/uapi.h"
#include "accel/kvm/vcpu.h"
#include "base/log.h"

namespace trapeze::kvm {
namespace {

constexpr uint64_t kXcr0AtReset = 1;

MsrTable table_of(std::span<const MsrValue> values) {
  std::vector<kvm_msr_entry> entries;
  for (const MsrValue& msr : values) entries.push_back({msr.index, 0, msr.value});
  return MsrTable(std::span<const kvm_msr_entry>(entries));
}

}  // namespace

VcpuState KvmVcpu::save() const {
  auto state = try_save();
  if (state) return std::move(*state);
  log(LogLevel::Error, "vCPU {}: its state cannot be read: {}", id_.raw(), state.error().message);
  return reset_state();
}

Result<VcpuState> KvmVcpu::try_save() const {
  VcpuState state;
  // First: KVM settles pending INIT and SIPI with it, which changes the rest.
  kvm_mp_state mp_state{};
  TRY(KVM_CALL(fd_, KVM_GET_MP_STATE, &mp_state));
  state.mp_state = from_kvm_mp_state(mp_state.mp_state);
  kvm_regs regs{};
  TRY(KVM_CALL(fd_, KVM_GET_REGS, &regs));
  take_regs(state, regs);
  kvm_sregs sregs{};
  TRY(KVM_CALL(fd_, KVM_GET_SREGS, &sregs));
  take_sregs(state, sregs);
  kvm_debugregs debug{};
  TRY(KVM_CALL(fd_, KVM_GET_DEBUGREGS, &debug));
  take_debugregs(state, debug);
  kvm_lapic_state lapic{};
  TRY(KVM_CALL(fd_, KVM_GET_LAPIC, &lapic));
  take_lapic(state, lapic);
  kvm_vcpu_events events{};
  TRY(KVM_CALL(fd_, KVM_GET_VCPU_EVENTS, &events));
  take_events(state, events);
  TRY(save_xsave(state));
  const auto listed = TRY(parts_.device->msr_indices());
  state.msrs = TRY(read_msrs(msrs_to_save(listed, parts_.cpuid_policy.kind)));
  return state;
}

Result<void> KvmVcpu::save_xsave(VcpuState& state) const {
  state.xcr0 = kXcr0AtReset;
  if (has_xcrs_) {
    kvm_xcrs xcrs{};
    TRY(KVM_CALL(fd_, KVM_GET_XCRS, &xcrs));
    for (uint32_t i = 0; i < xcrs.nr_xcrs; ++i) {
      if (xcrs.xcrs[i].xcr == 0) state.xcr0 = xcrs.xcrs[i].value;
    }
  }
  std::vector<std::byte> image(std::max(parts_.xsave_bytes, kXsaveBytes));
  const unsigned long request = parts_.xsave_bytes != 0 ? kGetXsave2 : kGetXsave;
  TRY(kvm_ioctl(fd_, request, "KVM_GET_XSAVE", image.data()));
  state.xsave = canonical_xsave(image, state.xcr0);
  return {};
}

Result<std::vector<MsrValue>> KvmVcpu::read_msrs(std::span<const uint32_t> indices) const {
  std::vector<MsrValue> wanted;
  for (const uint32_t index : indices) wanted.push_back({index, 0});
  std::vector<MsrValue> values;
  std::span<const MsrValue> left(wanted);
  while (!left.empty()) {
    MsrTable table = table_of(left);
    const auto count =
        static_cast<size_t>(TRY(kvm_ioctl(fd_, kGetMsrs, "KVM_GET_MSRS", table.header())));
    for (const auto& entry : table.entries().first(std::min(count, left.size()))) {
      values.push_back({entry.index, entry.data});
    }
    // It stops at the first that it does not have for this guest: that one is no state.
    left = left.subspan(std::min(count + 1, left.size()));
  }
  return values;
}

Result<void> KvmVcpu::write_msrs(std::vector<MsrValue> msrs) {
  sort_for_restore(msrs);
  std::span<const MsrValue> left(msrs);
  while (!left.empty()) {
    MsrTable table = table_of(left);
    const auto count =
        static_cast<size_t>(TRY(kvm_ioctl(fd_, kSetMsrs, "KVM_SET_MSRS", table.header())));
    if (count >= left.size()) break;
    const MsrValue& refused = left[count];
    if (!may_be_refused(refused.index, refused.value)) {
      return fail("vCPU {}: this host's KVM does not take the value {:#x} for MSR {:#x}", id_.raw(),
                  refused.value, refused.index);
    }
    left = left.subspan(count + 1);
  }
  return {};
}

Result<void> KvmVcpu::restore(const VcpuState& state) {
  kvm_mp_state mp_state{};
  mp_state.mp_state = TRY(mp_state_of(state));
  const kvm_sregs sregs = sregs_of(state);
  TRY(KVM_CALL(fd_, KVM_SET_SREGS, &sregs));
  TRY(restore_xsave(state));
  const kvm_regs regs = regs_of(state);
  TRY(KVM_CALL(fd_, KVM_SET_REGS, &regs));
  const kvm_debugregs debug = debugregs_of(state);
  TRY(KVM_CALL(fd_, KVM_SET_DEBUGREGS, &debug));
  // A boot protocol says nothing about the local APIC: then it stays as after power-on. Before the
  // MSRs: the TSC deadline needs the timer's mode.
  if (state.lapic != std::array<uint32_t, 64>{}) {
    const kvm_lapic_state lapic = lapic_of(state);
    TRY(KVM_CALL(fd_, KVM_SET_LAPIC, &lapic));
  }
  TRY(write_msrs(state.msrs));
  TRY(KVM_CALL(fd_, KVM_SET_MP_STATE, &mp_state));
  const kvm_vcpu_events events = events_of(state);
  TRY(KVM_CALL(fd_, KVM_SET_VCPU_EVENTS, &events));
  return {};
}

Result<void> KvmVcpu::restore_xsave(const VcpuState& state) {
  if (has_xcrs_) {
    kvm_xcrs xcrs{};
    xcrs.nr_xcrs = 1;
    xcrs.xcrs[0].value = state.xcr0;
    if (!KVM_CALL(fd_, KVM_SET_XCRS, &xcrs)) {
      return fail("vCPU {}: this host does not have the register sets of XCR0 {:#x}", id_.raw(),
                  state.xcr0);
    }
  } else if (state.xcr0 != kXcr0AtReset) {
    return fail("vCPU {}: this host has no XSAVE, the state has XCR0 {:#x}", id_.raw(), state.xcr0);
  }
  const size_t size = std::max(parts_.xsave_bytes, kXsaveBytes);
  const auto image = TRY(kvm_xsave_image(state, size));
  TRY(kvm_ioctl(fd_, kSetXsave, "KVM_SET_XSAVE", image.data()));
  return {};
}

std::string KvmVcpu::dump() const {
  const auto saved = try_save();
  if (!saved) return "(no registers: " + saved.error().message + ")";
  const VcpuState& state = *saved;
  static constexpr const char* kNames[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  static constexpr const char* kSegments[] = {"es", "cs", "ss", "ds", "fs", "gs"};
  std::string text = fmt::format("rip {:016x} rflags {:08x}", state.rip, state.rflags);
  for (size_t i = 0; i < state.gpr.size(); ++i) {
    text += fmt::format("{}{:<3} {:016x}", i % 4 == 0 ? "\n" : " ", kNames[i], state.gpr[i]);
  }
  text +=
      fmt::format("\ncr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} cr8 {:x} efer {:x} xcr0 {:x}", state.cr0,
                  state.cr2, state.cr3, state.cr4, state.cr8, state.efer, state.xcr0);
  for (size_t i = 0; i < state.segments.size(); ++i) {
    const Segment& segment = state.segments[i];
    text +=
        fmt::format("{}{} {:04x} base {:x} limit {:x} access {:05x}", i % 2 == 0 ? "\n" : "; ",
                    kSegments[i], segment.selector, segment.base, segment.limit, segment.access);
  }
  kvm_translation translation{};
  translation.linear_address = state.segments[kCs].base + state.rip;
  if (!KVM_CALL(fd_, KVM_TRANSLATE, &translation) || translation.valid == 0) {
    return text + "\ncode at rip: not mapped";
  }
  text += "\ncode at rip:";
  for (uint64_t i = 0; i < 16; ++i) {
    const auto byte = parts_.memory->load<uint8_t>(Gpa(translation.physical_address + i));
    if (!byte) break;
    text += fmt::format(" {:02x}", *byte);
  }
  return text;
}

}  // namespace trapeze::kvm
