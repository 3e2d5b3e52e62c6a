#include "accel/kvm/state.h"

#include <gtest/gtest.h>

#include <cstring>

namespace trapeze::kvm {
namespace {

// Every field another value, so that a mixed-up pair shows.
VcpuState distinct_state() {
  VcpuState state = reset_state();
  uint64_t next = 0x1111'0000'0000'0001;
  for (auto& gpr : state.gpr) gpr = next += 0x0101'0000'0000'0001;
  state.rip = 0xffff'ffff'8100'0000;
  state.rflags = 0x246;
  uint16_t selector = 8;
  for (Segment& segment : state.segments) {
    segment = {selector * 0x1000U, selector * 0x10U, 0xc093, selector};
    selector = static_cast<uint16_t>(selector + 8);
  }
  state.segments[kCs].access = 0xa09b;
  state.tr = {0x5000, 0x67, 0x8b, 0x40};
  state.ldtr = {0, 0, kSegmentUnusable, 0};
  state.gdtr = {0x6000, 0x7f};
  state.idtr = {0x7000, 0xfff};
  state.cr0 = 0x80050033;
  state.cr2 = 2;
  state.cr3 = 0x3000;
  state.cr4 = 0x6f0;
  state.cr8 = 4;
  state.efer = 0xd01;
  state.dr = {1, 2, 3, 4};
  state.dr6 = 0xffff0ff1;
  state.dr7 = 0x401;
  state.apic_base = 0xfee00d00;
  for (size_t i = 0; i < state.lapic.size(); ++i) state.lapic[i] = static_cast<uint32_t>(i * 3 + 1);
  return state;
}

TEST(KvmState, registers_survive_the_round_trip) {
  const VcpuState state = distinct_state();
  VcpuState back;
  take_regs(back, regs_of(state));
  take_sregs(back, sregs_of(state));
  take_debugregs(back, debugregs_of(state));
  take_lapic(back, lapic_of(state));
  back.xsave = state.xsave;
  EXPECT_EQ(back, state);
}

TEST(KvmState, registers_go_to_the_fields_of_their_names) {
  const VcpuState state = distinct_state();
  const kvm_regs regs = regs_of(state);
  EXPECT_EQ(regs.rbx, state.gpr[kRbx]);
  EXPECT_EQ(regs.rsp, state.gpr[kRsp]);
  EXPECT_EQ(regs.r15, state.gpr[kR15]);
  const kvm_sregs sregs = sregs_of(state);
  EXPECT_EQ(sregs.ss.selector, state.segments[kSs].selector);
  EXPECT_EQ(sregs.fs.base, state.segments[kFs].base);
  EXPECT_EQ(sregs.idt.limit, state.idtr.limit);
}

TEST(KvmState, code_segment_of_64_bits_has_its_attributes_apart) {
  const kvm_segment segment = to_kvm({0, 0xffffffff, 0xa09b, 0x10});
  EXPECT_EQ(segment.type, 0xb);
  EXPECT_EQ(segment.s, 1);
  EXPECT_EQ(segment.dpl, 0);
  EXPECT_EQ(segment.present, 1);
  EXPECT_EQ(segment.l, 1);
  EXPECT_EQ(segment.db, 0);
  EXPECT_EQ(segment.g, 1);
  EXPECT_EQ(segment.unusable, 0);
}

TEST(KvmState, lapic_registers_stand_at_steps_of_16_bytes) {
  VcpuState state;
  state.lapic[2] = 0x01000000;  // the ID, at 0x20
  const kvm_lapic_state lapic = lapic_of(state);
  EXPECT_EQ(lapic.regs[0x23], 1);
  EXPECT_EQ(lapic.regs[0x2], 0);
}

kvm_vcpu_events injected_interrupt(uint8_t vector) {
  kvm_vcpu_events events{};
  events.interrupt.injected = 1;
  events.interrupt.nr = vector;
  return events;
}

TEST(KvmState, injected_apic_interrupt_goes_back_to_irr) {
  VcpuState state;
  state.apic_base = 0xfee00900;
  state.lapic[0x10 + 1] = 1U << 3;  // ISR, vector 35
  take_events(state, injected_interrupt(35));
  EXPECT_EQ(state.lapic[0x10 + 1], 0U);
  EXPECT_EQ(state.lapic[0x20 + 1], 1U << 3);
  EXPECT_FALSE(state.events.interrupt_injected);
}

TEST(KvmState, injected_8259_interrupt_is_kept_beside_the_apic) {
  VcpuState state;
  state.apic_base = 0xfee00900;
  take_events(state, injected_interrupt(48));
  EXPECT_TRUE(state.events.interrupt_injected);
  EXPECT_EQ(state.events.interrupt_vector, 48);
  EXPECT_EQ(events_of(state).interrupt.nr, 48);
  EXPECT_EQ(events_of(state).interrupt.injected, 1);
}

TEST(KvmState, software_interrupt_under_way_is_repeated_by_its_instruction) {
  VcpuState state;
  kvm_vcpu_events events = injected_interrupt(0x80);
  events.interrupt.soft = 1;
  take_events(state, events);
  EXPECT_FALSE(state.events.interrupt_injected);
}

TEST(KvmState, nmi_under_injection_is_pending_and_blocks_nothing) {
  VcpuState state;
  kvm_vcpu_events events{};
  events.nmi.injected = 1;
  events.nmi.masked = 1;
  take_events(state, events);
  EXPECT_TRUE(state.events.nmi_pending);
  EXPECT_FALSE(state.events.nmi_blocked);
}

TEST(KvmState, exception_survives_the_round_trip) {
  VcpuState state;
  state.events.exception_pending = true;
  state.events.exception_vector = 14;
  state.events.exception_has_error_code = true;
  state.events.exception_error_code = 6;
  state.events.interrupt_shadow = 2;
  state.events.nmi_blocked = true;
  VcpuState back;
  take_events(back, events_of(state));
  EXPECT_EQ(back.events, state.events);
}

TEST(KvmState, sti_and_mov_ss_shadows_are_not_mixed_up) {
  VcpuState state;
  state.events.interrupt_shadow = 1;
  EXPECT_EQ(events_of(state).interrupt.shadow, KVM_X86_SHADOW_INT_STI);
  state.events.interrupt_shadow = 2;
  EXPECT_EQ(events_of(state).interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
}

TEST(KvmState, waiting_processor_can_take_a_sipi_at_once) {
  VcpuState state;
  state.mp_state = MpState::WaitForSipi;
  EXPECT_EQ(*mp_state_of(state), uint32_t{KVM_MP_STATE_INIT_RECEIVED});
  EXPECT_EQ(from_kvm_mp_state(KVM_MP_STATE_UNINITIALIZED), MpState::WaitForSipi);
  EXPECT_EQ(from_kvm_mp_state(KVM_MP_STATE_SIPI_RECEIVED), MpState::Runnable);
}

TEST(KvmState, shut_down_processor_is_refused) {
  VcpuState state;
  state.mp_state = MpState::Shutdown;
  EXPECT_FALSE(mp_state_of(state));
}

TEST(KvmState, fxsave_image_gets_a_header_that_says_so) {
  const auto image = kvm_xsave_image(reset_state(), 4096);
  ASSERT_TRUE(image);
  ASSERT_EQ(image->size(), 4096U);
  uint64_t xstate_bv = 0;
  std::memcpy(&xstate_bv, image->data() + 512, sizeof(xstate_bv));
  EXPECT_EQ(xstate_bv, 3U);
}

TEST(KvmState, image_that_fits_no_more_is_refused_only_when_it_holds_something) {
  VcpuState state = reset_state();
  state.xsave.resize(8192);
  EXPECT_TRUE(kvm_xsave_image(state, 4096));
  state.xsave[5000] = std::byte{1};
  EXPECT_FALSE(kvm_xsave_image(state, 4096));
}

TEST(KvmState, legacy_image_is_cut_and_an_avx_one_is_not) {
  const std::vector<std::byte> image(4096);
  EXPECT_EQ(canonical_xsave(image, 3).size(), 512U);
  EXPECT_EQ(canonical_xsave(image, 7).size(), 4096U);
}

TEST(KvmState, short_fpu_image_is_refused) {
  VcpuState state = reset_state();
  state.xsave.resize(511);
  EXPECT_FALSE(kvm_xsave_image(state, 4096));
}

}  // namespace
}  // namespace trapeze::kvm
