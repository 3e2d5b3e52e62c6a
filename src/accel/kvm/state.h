// Between KVM's register structures and the canonical VcpuState: pure functions, so that every rule
// has a unit test. No kvm_* struct leaves accel/kvm.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <span>
#include <vector>

#include "arch/x86/vcpu_state.h"
#include "base/result.h"

namespace trapeze::kvm {

kvm_segment to_kvm(const Segment& segment);
Segment from_kvm(const kvm_segment& segment);

kvm_regs regs_of(const VcpuState& state);
void take_regs(VcpuState& state, const kvm_regs& regs);
kvm_sregs sregs_of(const VcpuState& state);
void take_sregs(VcpuState& state, const kvm_sregs& sregs);
kvm_debugregs debugregs_of(const VcpuState& state);
void take_debugregs(VcpuState& state, const kvm_debugregs& debug);

// KVM's own picture of the local APIC page; the registers stand at 16-byte steps.
kvm_lapic_state lapic_of(const VcpuState& state);
void take_lapic(VcpuState& state, const kvm_lapic_state& lapic);

// Events on their way. An interrupt that KVM has taken from the local APIC but not delivered goes
// back there (from ISR to IRR), so that the canonical state has it in one place; call it after
// take_lapic(). One that the 8259s gave is in no register: events.interrupt_injected.
kvm_vcpu_events events_of(const VcpuState& state);
void take_events(VcpuState& state, const kvm_vcpu_events& events);

Result<uint32_t> mp_state_of(const VcpuState& state);
MpState from_kvm_mp_state(uint32_t mp_state);

// The canonical image is cut after the FXSAVE part when xcr0 has nothing beyond it.
std::vector<std::byte> canonical_xsave(std::span<const std::byte> image, uint64_t xcr0);
// An image of `size` bytes for KVM_SET_XSAVE; an Error when the saved one does not fit this host.
Result<std::vector<std::byte>> kvm_xsave_image(const VcpuState& state, size_t size);

}  // namespace trapeze::kvm
