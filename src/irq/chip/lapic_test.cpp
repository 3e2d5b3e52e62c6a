#include "irq/chip/lapic.h"

#include <gtest/gtest.h>

#include "irq/chip/lapic_test_support.h"

namespace trapeze {
namespace {

using namespace apic_reg;

constexpr uint32_t kMode = kLvtModeShift;

TEST(Lapic, fixed_interrupt_goes_through_irr_and_isr) {
  LapicFixture f;
  f.enable();
  EXPECT_TRUE(f.deliver(0x41));
  EXPECT_TRUE(f.has_vector(kIrr, 0x41));
  EXPECT_TRUE(f.lapic.has_attention());
  EXPECT_EQ(f.lapic.pending_vector(), 0x41);
  EXPECT_EQ(f.lapic.accept(), 0x41);
  EXPECT_FALSE(f.has_vector(kIrr, 0x41));
  EXPECT_TRUE(f.has_vector(kIsr, 0x41));
  EXPECT_EQ(f.read(kPpr), 0x40U);
  EXPECT_FALSE(f.lapic.has_attention());
  f.write(kEoi, 0);
  EXPECT_FALSE(f.has_vector(kIsr, 0x41));
  EXPECT_EQ(f.read(kPpr), 0U);
  EXPECT_TRUE(f.host.eois.empty());
}

TEST(Lapic, delivery_wakes_the_vcpu) {
  LapicFixture f;
  f.enable();
  f.deliver(0x41);
  EXPECT_EQ(f.host.wakes, 1);
}

TEST(Lapic, higher_class_nests_and_lower_waits_for_eoi) {
  LapicFixture f;
  f.enable();
  f.deliver(0x55);
  EXPECT_EQ(f.lapic.accept(), 0x55);
  f.deliver(0x51);
  f.deliver(0x5f);  // same class, higher vector: still waits (SDM 3A 11.8.3.1)
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
  f.deliver(0x61);
  EXPECT_EQ(f.lapic.accept(), 0x61);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.accept(), 0x5f);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.accept(), 0x51);
}

TEST(Lapic, eoi_wakes_for_what_waited_behind_it) {
  LapicFixture f;
  f.enable();
  f.deliver(0x55);
  f.lapic.accept();
  f.deliver(0x41);
  const int before = f.host.wakes;
  f.write(kEoi, 0);
  EXPECT_EQ(f.host.wakes, before + 1);
  EXPECT_EQ(f.lapic.pending_vector(), 0x41);
}

TEST(Lapic, eoi_without_interrupt_in_service_does_nothing) {
  LapicFixture f;
  f.enable();
  f.write(kEoi, 0);
  EXPECT_TRUE(f.host.eois.empty());
}

TEST(Lapic, task_priority_holds_back_its_class) {
  LapicFixture f;
  f.enable();
  f.lapic.set_tpr(5);
  EXPECT_EQ(f.read(kTpr), 0x50U);
  f.deliver(0x5f);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
  f.deliver(0x60);
  EXPECT_EQ(f.lapic.pending_vector(), 0x60);
}

TEST(Lapic, lowering_tpr_wakes) {
  LapicFixture f;
  f.enable();
  f.write(kTpr, 0xff);
  EXPECT_EQ(f.lapic.tpr(), 15);
  f.deliver(0xe1);
  const int before = f.host.wakes;
  f.lapic.set_tpr(0);
  EXPECT_EQ(f.host.wakes, before + 1);
  EXPECT_EQ(f.lapic.pending_vector(), 0xe1);
}

TEST(Lapic, accept_with_nothing_deliverable_is_spurious) {
  LapicFixture f;
  f.enable();
  f.deliver(0x30);
  f.lapic.set_tpr(15);
  EXPECT_EQ(f.lapic.accept(), 0xff);
  EXPECT_TRUE(f.has_vector(kIrr, 0x30));
  EXPECT_EQ(f.read(kIsr + 0x70), 0U);
}

TEST(Lapic, same_vector_twice_is_delivered_again_after_accept) {
  LapicFixture f;
  f.enable();
  f.deliver(0x70);
  f.deliver(0x70);  // coalesced in IRR
  f.lapic.accept();
  EXPECT_FALSE(f.lapic.has_attention());
  f.deliver(0x70);  // one more while in service
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.accept(), 0x70);
}

TEST(Lapic, level_triggered_eoi_is_broadcast_and_edge_is_not) {
  LapicFixture f;
  f.enable();
  f.deliver(0x88, /*level=*/true);
  EXPECT_TRUE(f.has_vector(kTmr, 0x88));
  f.lapic.accept();
  f.write(kEoi, 0);
  EXPECT_EQ(f.host.eois, std::vector<uint8_t>{0x88});
  EXPECT_TRUE(f.has_vector(kTmr, 0x88));  // stays until the next acceptance
  f.deliver(0x88);
  EXPECT_FALSE(f.has_vector(kTmr, 0x88));
  f.lapic.accept();
  f.write(kEoi, 0);
  EXPECT_EQ(f.host.eois.size(), 1U);
}

TEST(Lapic, software_disabled_refuses_fixed_but_takes_nmi_init_sipi) {
  LapicFixture f;
  EXPECT_FALSE(f.deliver(0x41));
  EXPECT_FALSE(f.lapic.has_attention());
  EXPECT_TRUE(f.lapic.deliver({.mode = DeliveryMode::Nmi}));
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_TRUE(f.lapic.deliver({.mode = DeliveryMode::Init}));
  EXPECT_TRUE(f.lapic.take_init());
  EXPECT_TRUE(f.lapic.deliver({.mode = DeliveryMode::StartUp, .vector = 9}));
  EXPECT_EQ(f.lapic.take_sipi(), 9);
  EXPECT_FALSE(f.lapic.has_attention());
}

TEST(Lapic, globally_disabled_refuses_everything) {
  LapicFixture f;
  f.lapic.set_apic_base(f.lapic.apic_base() & ~kApicBaseEnable);
  EXPECT_FALSE(f.lapic.deliver({.mode = DeliveryMode::Nmi}));
  EXPECT_FALSE(f.lapic.deliver({.mode = DeliveryMode::Init}));
  EXPECT_FALSE(f.deliver(0x41));
  EXPECT_FALSE(f.lapic.has_attention());
}

TEST(Lapic, smi_and_reserved_mode_are_refused) {
  LapicFixture f;
  f.enable();
  EXPECT_FALSE(f.lapic.deliver({.mode = DeliveryMode::Smi}));
  EXPECT_FALSE(f.lapic.deliver({.mode = DeliveryMode::Reserved}));
}

TEST(Lapic, two_nmis_wait_and_a_third_is_lost) {
  LapicFixture f;
  for (int i = 0; i < 3; ++i) f.lapic.deliver({.mode = DeliveryMode::Nmi});
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_FALSE(f.lapic.take_nmi());
}

TEST(Lapic, nmis_during_a_handler_collapse_into_one) {
  LapicFixture f;
  f.lapic.deliver({.mode = DeliveryMode::Nmi});
  EXPECT_TRUE(f.lapic.take_nmi());
  for (int i = 0; i < 10; ++i) f.lapic.deliver({.mode = DeliveryMode::Nmi});
  const int before = f.host.wakes;
  f.lapic.nmi_unblocked();
  EXPECT_EQ(f.host.wakes, before + 1);
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_FALSE(f.lapic.take_nmi());
  f.lapic.nmi_unblocked();
  EXPECT_EQ(f.host.wakes, before + 1);
}

TEST(Lapic, init_drops_an_earlier_sipi) {
  LapicFixture f;
  f.lapic.deliver({.mode = DeliveryMode::StartUp, .vector = 1});
  f.lapic.deliver({.mode = DeliveryMode::Init});
  EXPECT_TRUE(f.lapic.take_init());
  EXPECT_EQ(f.lapic.take_sipi(), std::nullopt);
}

TEST(Lapic, sipi_after_init_survives_the_reset) {
  LapicFixture f;
  f.lapic.deliver({.mode = DeliveryMode::Init});
  f.lapic.deliver({.mode = DeliveryMode::StartUp, .vector = 0x9a});
  EXPECT_TRUE(f.lapic.take_init());
  f.lapic.init_reset();
  EXPECT_EQ(f.lapic.take_sipi(), 0x9a);
}

TEST(Lapic, init_level_deassert_is_ignored) {
  LapicFixture f;
  f.lapic.deliver({.mode = DeliveryMode::Init, .level_triggered = true, .asserted = false});
  EXPECT_FALSE(f.lapic.take_init());
}

TEST(Lapic, init_reset_restores_power_on_state_but_not_the_base) {
  LapicFixture f;
  f.enable();
  f.lapic.set_apic_base(0xfed4'0000 | kApicBaseEnable);
  f.write(kTpr, 0x40);
  f.write(kLdr, 0x0800'0000);
  f.write(kLvtTimer, 0x20030);
  f.write(kInitialCount, 1'000'000);
  f.deliver(0x90);
  f.lapic.init_reset();
  EXPECT_EQ(f.lapic.apic_base(), 0xfed4'0000 | kApicBaseEnable);
  EXPECT_EQ(f.read(kId), 3U << 24);
  EXPECT_EQ(f.read(kTpr), 0U);
  EXPECT_EQ(f.read(kLdr), 0U);
  EXPECT_EQ(f.read(kDfr), 0xffff'ffffU);
  EXPECT_EQ(f.read(kSpurious), 0xffU);
  EXPECT_EQ(f.read(kLvtTimer), kLvtMasked);
  EXPECT_EQ(f.read(kInitialCount), 0U);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_FALSE(f.has_vector(kIrr, 0x90));
  EXPECT_FALSE(f.lapic.has_attention());
}

// --- LINT0 ---

TEST(LapicLint0, power_on_bsp_is_in_virtual_wire_mode) {
  LapicFixture f({.id = VcpuId(0), .is_bsp = true});
  EXPECT_EQ(f.read(kLvtLint0), 7U << kMode);
  f.lapic.set_lint0(true);
  EXPECT_TRUE(f.lapic.has_attention());
  EXPECT_TRUE(f.lapic.extint_pending());
  f.lapic.extint_taken();
  EXPECT_TRUE(f.lapic.extint_pending());  // a level: it lasts until the 8259s let go
  f.lapic.set_lint0(false);
  EXPECT_FALSE(f.lapic.extint_pending());
  EXPECT_FALSE(f.lapic.has_attention());
}

TEST(LapicLint0, masked_entry_blocks_and_unmasking_lets_through) {
  LapicFixture f;
  f.enable();
  f.lapic.set_lint0(true);
  EXPECT_FALSE(f.lapic.extint_pending());
  f.write(kLvtLint0, 7U << kMode);
  EXPECT_TRUE(f.lapic.extint_pending());
  f.write(kLvtLint0, 7U << kMode | kLvtMasked);
  EXPECT_FALSE(f.lapic.extint_pending());
}

TEST(LapicLint0, disabled_apic_passes_the_wire_to_the_cpu) {
  LapicFixture f;
  f.lapic.set_lint0(true);
  EXPECT_FALSE(f.lapic.extint_pending());
  f.lapic.set_apic_base(f.lapic.apic_base() & ~kApicBaseEnable);
  EXPECT_TRUE(f.lapic.extint_pending());
}

TEST(LapicLint0, fixed_entry_interrupts_on_the_rising_edge) {
  LapicFixture f;
  f.enable();
  f.write(kLvtLint0, 0x35);
  f.lapic.set_lint0(true);
  EXPECT_EQ(f.lapic.accept(), 0x35);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
  f.lapic.set_lint0(false);
  f.lapic.set_lint0(true);
  EXPECT_EQ(f.lapic.pending_vector(), 0x35);
}

TEST(LapicLint0, fixed_level_entry_comes_again_until_released) {
  LapicFixture f;
  f.enable();
  f.write(kLvtLint0, 0x35 | kLvtLevel);
  f.lapic.set_lint0(true);
  EXPECT_EQ(f.lapic.accept(), 0x35);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.accept(), 0x35);
  f.lapic.set_lint0(false);
  f.write(kEoi, 0);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
}

TEST(LapicLint0, nmi_entry_makes_an_nmi) {
  LapicFixture f;
  f.enable();
  f.write(kLvtLint0, 4U << kMode);
  f.lapic.set_lint0(true);
  EXPECT_TRUE(f.lapic.take_nmi());
}

TEST(LapicLint0, extint_message_is_taken_once) {
  LapicFixture f;
  f.lapic.deliver({.mode = DeliveryMode::ExtInt});
  EXPECT_TRUE(f.lapic.extint_pending());
  f.lapic.extint_taken();
  EXPECT_FALSE(f.lapic.extint_pending());
}

// --- Errors ---

TEST(LapicErrors, received_illegal_vector_is_reported_and_not_accepted) {
  LapicFixture f;
  f.enable();
  f.deliver(0x0f);
  EXPECT_EQ(f.read(kIrr), 0U);
  EXPECT_EQ(f.read(kEsr), 0U);  // only a write makes it visible
  EXPECT_EQ(f.errors(), kEsrReceiveIllegalVector);
  EXPECT_EQ(f.errors(), 0U);
}

TEST(LapicErrors, error_interrupt_comes_once_until_esr_is_written) {
  LapicFixture f;
  f.enable();
  f.write(kLvtError, 0xfe);
  f.deliver(0x05);
  EXPECT_EQ(f.lapic.accept(), 0xfe);
  f.write(kEoi, 0);
  f.deliver(0x05);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
  f.write(kEsr, 0);
  f.deliver(0x05);
  EXPECT_EQ(f.lapic.pending_vector(), 0xfe);
}

TEST(LapicErrors, illegal_vector_in_the_error_entry_itself_ends) {
  LapicFixture f;
  f.enable();
  f.write(kLvtError, 0x03);
  f.deliver(0x05);
  EXPECT_EQ(f.errors(), kEsrReceiveIllegalVector);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
}

TEST(LapicErrors, sending_an_illegal_vector_sends_nothing) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, 0x0000'400f);
  EXPECT_TRUE(f.host.ipis.empty());
  EXPECT_EQ(f.errors(), kEsrSendIllegalVector);
}

TEST(LapicErrors, reserved_register_access_is_reported) {
  LapicFixture f;
  f.enable();
  EXPECT_EQ(f.read(0x000), 0U);
  EXPECT_EQ(f.errors(), kEsrIllegalRegister);
  f.write(0x3f0, 0x41);  // SELF IPI exists in x2APIC mode only
  EXPECT_EQ(f.errors(), kEsrIllegalRegister);
  EXPECT_EQ(f.lapic.pending_vector(), std::nullopt);
}

}  // namespace
}  // namespace trapeze
