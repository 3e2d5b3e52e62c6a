#include "irq/chip/lapic_registers.h"

#include <gtest/gtest.h>

#include "irq/chip/lapic_test_support.h"

namespace trapeze {
namespace {

using namespace apic_reg;

constexpr uint32_t msr(uint32_t offset) { return LapicFixture::msr(offset); }

// --- xAPIC page ---

TEST(LapicMmio, power_on_values_are_those_of_the_manual) {
  LapicFixture f;
  EXPECT_EQ(f.read(kId), 3U << 24);
  EXPECT_EQ(f.read(kVersion), 0x0005'0014U);
  EXPECT_EQ(f.read(kSpurious), 0xffU);
  EXPECT_EQ(f.read(kDfr), 0xffff'ffffU);
  for (uint32_t lvt = kLvtTimer; lvt <= kLvtError; lvt += 0x10) EXPECT_EQ(f.read(lvt), 0x10000U);
  EXPECT_EQ(f.lapic.apic_base(), 0xfee0'0800U);
}

TEST(LapicMmio, read_only_and_reserved_bits_do_not_stick) {
  LapicFixture f;
  f.enable();
  f.write(kId, 0x0900'0000);
  EXPECT_EQ(f.read(kId), 3U << 24);
  f.write(kVersion, 0xffff'ffff);
  EXPECT_EQ(f.read(kVersion), 0x0005'0014U);
  f.write(kTpr, 0xffff'ff12);
  EXPECT_EQ(f.read(kTpr), 0x12U);
  f.write(kLdr, 0xffff'ffff);
  EXPECT_EQ(f.read(kLdr), 0xff00'0000U);
  f.write(kDfr, 0);
  EXPECT_EQ(f.read(kDfr), 0x0fff'ffffU);
  f.write(kDivide, 0xffff'ffff);
  EXPECT_EQ(f.read(kDivide), 0xbU);
  f.write(kLvtTimer, 0xffff'ffff);
  EXPECT_EQ(f.read(kLvtTimer), 0x0007'00ffU);
  f.write(kLvtPerf, 0xffff'ffff);
  EXPECT_EQ(f.read(kLvtPerf), 0x0001'07ffU);
  f.write(kLvtLint1, 0xffff'ffff);
  EXPECT_EQ(f.read(kLvtLint1), 0x0001'a7ffU);
  f.write(kLvtError, 0xffff'ffff);
  EXPECT_EQ(f.read(kLvtError), 0x0001'00ffU);
  f.write(kIsr, 0xffff'ffff);
  EXPECT_EQ(f.read(kIsr), 0U);
}

TEST(LapicMmio, unaligned_access_means_nothing) {
  LapicFixture f;
  f.enable();
  f.write(kTpr + 4, 0x77);
  EXPECT_EQ(f.read(kTpr), 0U);
  EXPECT_EQ(f.read(kVersion + 4), 0U);
  EXPECT_EQ(f.read(0xffff'fff0), 0U);
}

TEST(LapicMmio, software_disable_masks_all_entries_and_keeps_them_masked) {
  LapicFixture f;
  f.enable();
  f.write(kLvtTimer, 0x31);
  f.write(kLvtError, 0x32);
  f.write(kSpurious, 0xff);
  EXPECT_EQ(f.read(kLvtTimer), 0x10031U);
  EXPECT_EQ(f.read(kLvtError), 0x10032U);
  f.write(kLvtTimer, 0x33);
  EXPECT_EQ(f.read(kLvtTimer), 0x10033U);
  f.enable();
  EXPECT_EQ(f.read(kLvtTimer), 0x10033U);
}

TEST(LapicMmio, page_is_gone_in_x2apic_mode_and_when_disabled) {
  LapicFixture f;
  EXPECT_TRUE(f.lapic.is_mmio_visible());
  f.enable_x2apic();
  EXPECT_FALSE(f.lapic.is_mmio_visible());
  EXPECT_EQ(f.read(kVersion), 0xffff'ffffU);
  f.lapic.set_apic_base(0xfee0'0000);
  EXPECT_FALSE(f.lapic.is_mmio_visible());
  f.write(kTpr, 0x20);
  EXPECT_EQ(f.lapic.tpr(), 0);
}

// --- Sending ---

TEST(LapicIcr, xapic_write_sends_with_the_8_bit_destination) {
  LapicFixture f;
  f.enable();
  f.write(kIcrHigh, 0x05ff'ffff);
  f.write(kIcrLow, 0x0000'4841);
  ASSERT_EQ(f.host.ipis.size(), 1U);
  EXPECT_EQ(f.host.ipis[0],
            (ApicMessage{.vector = 0x41, .logical = true, .destination = 5, .source = 3}));
  EXPECT_EQ(f.read(kIcrLow), 0x0000'4841U);
  EXPECT_EQ(f.read(kIcrHigh), 0x0500'0000U);
}

TEST(LapicIcr, x2apic_write_sends_with_the_32_bit_destination) {
  LapicFixture f;
  f.enable_x2apic();
  EXPECT_TRUE(f.lapic.msr_write(msr(kIcrLow), 0x0001'0002'0000'0642));
  ASSERT_EQ(f.host.ipis.size(), 1U);
  EXPECT_EQ(f.host.ipis[0].mode, DeliveryMode::StartUp);
  EXPECT_EQ(f.host.ipis[0].vector, 0x42);
  EXPECT_TRUE(f.host.ipis[0].wide);
  EXPECT_EQ(f.host.ipis[0].destination, 0x0001'0002U);
  uint64_t icr = 0;
  EXPECT_TRUE(f.lapic.msr_read(msr(kIcrLow), icr));
  EXPECT_EQ(icr, 0x0001'0002'0000'0642U);
}

TEST(LapicIcr, delivery_status_reads_idle) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, kIcrBusy | 0x4041);
  EXPECT_EQ(f.read(kIcrLow) & kIcrBusy, 0U);
}

TEST(LapicIcr, self_shorthand_stays_local) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, 1U << kIcrShorthandShift | 0x4061);
  EXPECT_TRUE(f.host.ipis.empty());
  EXPECT_EQ(f.lapic.pending_vector(), 0x61);
}

TEST(LapicIcr, init_to_self_by_shorthand_is_ignored) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, 1U << kIcrShorthandShift | 0x4500);
  EXPECT_FALSE(f.lapic.take_init());
}

TEST(LapicIcr, level_trigger_bit_does_not_make_an_ipi_level_triggered) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, 1U << kIcrShorthandShift | kIcrLevel | 0x4061);
  EXPECT_FALSE(f.has_vector(kTmr, 0x61));
}

TEST(LapicIcr, init_deassert_keeps_its_meaning) {
  LapicFixture f;
  f.enable();
  f.write(kIcrLow, 3U << kIcrShorthandShift | 0x8500);
  ASSERT_EQ(f.host.ipis.size(), 1U);
  EXPECT_TRUE(f.host.ipis[0].level_triggered);
  EXPECT_FALSE(f.host.ipis[0].asserted);
}

// --- x2APIC MSRs ---

struct MsrCase {
  uint32_t offset;
  bool readable, writable;
};

class X2apicMsr : public ::testing::TestWithParam<MsrCase> {};

TEST_P(X2apicMsr, access_follows_the_table) {
  const auto [offset, readable, writable] = GetParam();
  LapicFixture f;
  f.enable_x2apic();
  uint64_t value = 0;
  EXPECT_EQ(f.lapic.msr_read(msr(offset), value), readable);
  EXPECT_EQ(f.lapic.msr_write(msr(offset), 0), writable);
}

TEST_P(X2apicMsr, upper_half_is_reserved) {
  LapicFixture f;
  f.enable_x2apic();
  EXPECT_EQ(f.lapic.msr_write(msr(GetParam().offset), uint64_t{1} << 32),
            GetParam().offset == kIcrLow);
}

TEST_P(X2apicMsr, is_absent_in_xapic_mode) {
  LapicFixture f;
  uint64_t value = 0;
  EXPECT_FALSE(f.lapic.msr_read(msr(GetParam().offset), value));
  EXPECT_FALSE(f.lapic.msr_write(msr(GetParam().offset), 0));
}

// SDM 3A table 11-6.
INSTANTIATE_TEST_SUITE_P(
    Table, X2apicMsr,
    ::testing::Values(
        MsrCase{0x000, false, false}, MsrCase{kId, true, false}, MsrCase{kVersion, true, false},
        MsrCase{0x040, false, false}, MsrCase{kTpr, true, true}, MsrCase{kApr, false, false},
        MsrCase{kPpr, true, false}, MsrCase{kEoi, false, true}, MsrCase{kRemoteRead, false, false},
        MsrCase{kLdr, true, false}, MsrCase{kDfr, false, false}, MsrCase{kSpurious, true, true},
        MsrCase{kIsr, true, false}, MsrCase{kIsr + 0x70, true, false}, MsrCase{kTmr, true, false},
        MsrCase{kTmr + 0x70, true, false}, MsrCase{kIrr, true, false},
        MsrCase{kIrr + 0x70, true, false}, MsrCase{kEsr, true, true}, MsrCase{0x290, false, false},
        MsrCase{0x2f0, false, false}, MsrCase{kIcrLow, true, true}, MsrCase{kIcrHigh, false, false},
        MsrCase{kLvtTimer, true, true}, MsrCase{kLvtThermal, true, true},
        MsrCase{kLvtPerf, true, true}, MsrCase{kLvtLint0, true, true},
        MsrCase{kLvtLint1, true, true}, MsrCase{kLvtError, true, true},
        MsrCase{kInitialCount, true, true}, MsrCase{kCurrentCount, true, false},
        MsrCase{0x3a0, false, false}, MsrCase{kDivide, true, true},
        MsrCase{kSelfIpi, false, true}));

TEST(LapicMsr, reserved_bits_fault) {
  LapicFixture f;
  f.enable_x2apic();
  EXPECT_FALSE(f.lapic.msr_write(msr(kTpr), 0x100));
  EXPECT_FALSE(f.lapic.msr_write(msr(kEoi), 1));
  EXPECT_FALSE(f.lapic.msr_write(msr(kEsr), 1));
  EXPECT_FALSE(f.lapic.msr_write(msr(kSpurious), 0x1000));
  EXPECT_FALSE(f.lapic.msr_write(msr(kSelfIpi), 0x100));
  EXPECT_FALSE(f.lapic.msr_write(msr(kDivide), 4));
  EXPECT_FALSE(f.lapic.msr_write(msr(kLvtError), 0x400));
  EXPECT_FALSE(f.lapic.msr_write(msr(kIcrLow), 0x10'0041));
  EXPECT_FALSE(f.lapic.msr_write(msr(kIcrLow), 0x2041));
  EXPECT_TRUE(f.host.ipis.empty());
}

TEST(LapicMsr, what_was_read_may_be_written_back) {
  LapicFixture f;
  f.enable_x2apic();
  for (uint32_t lvt = kLvtTimer; lvt <= kLvtError; lvt += 0x10) {
    uint64_t value = 0;
    EXPECT_TRUE(f.lapic.msr_read(msr(lvt), value));
    EXPECT_TRUE(f.lapic.msr_write(msr(lvt), value));
  }
}

TEST(LapicMsr, outside_the_range_faults) {
  LapicFixture f;
  f.enable_x2apic();
  uint64_t value = 0;
  EXPECT_FALSE(f.lapic.msr_read(0x7ff, value));
  EXPECT_FALSE(f.lapic.msr_read(0x840, value));
  EXPECT_FALSE(f.lapic.msr_read(0x8ff, value));
  EXPECT_FALSE(f.lapic.msr_read(0xffff'ffff, value));
  EXPECT_FALSE(f.lapic.msr_write(0x840, 0));
}

TEST(LapicMsr, self_ipi_sets_irr) {
  LapicFixture f;
  f.enable_x2apic();
  EXPECT_TRUE(f.lapic.msr_write(msr(kSelfIpi), 0xd1));
  EXPECT_EQ(f.lapic.pending_vector(), 0xd1);
}

TEST(LapicMsr, self_ipi_with_illegal_vector_is_an_error_not_a_fault) {
  LapicFixture f;
  f.enable_x2apic();
  EXPECT_TRUE(f.lapic.msr_write(msr(kSelfIpi), 3));
  f.lapic.msr_write(msr(kEsr), 0);
  uint64_t esr = 0;
  f.lapic.msr_read(msr(kEsr), esr);
  EXPECT_EQ(esr, kEsrSendIllegalVector);
}

TEST(LapicMsr, ids_have_x2apic_form) {
  LapicFixture f({.id = VcpuId(0x25)});
  f.enable_x2apic();
  uint64_t value = 0;
  f.lapic.msr_read(msr(kId), value);
  EXPECT_EQ(value, 0x25U);
  f.lapic.msr_read(msr(kLdr), value);
  EXPECT_EQ(value, 0x0002'0020U);
}

// --- IA32_APIC_BASE ---

constexpr uint64_t kBase = 0xfee0'0000;
constexpr uint64_t kXapicMode = kBase | kApicBaseEnable;
constexpr uint64_t kX2apicMode = kXapicMode | kApicBaseX2apic;

TEST(LapicBase, legal_transitions_are_taken) {
  LapicFixture f;
  EXPECT_TRUE(f.lapic.set_apic_base(kXapicMode));
  EXPECT_TRUE(f.lapic.set_apic_base(kX2apicMode));
  EXPECT_TRUE(f.lapic.set_apic_base(kX2apicMode));
  EXPECT_TRUE(f.lapic.set_apic_base(kBase));
  EXPECT_TRUE(f.lapic.set_apic_base(kBase));
  EXPECT_TRUE(f.lapic.set_apic_base(kXapicMode));
  EXPECT_TRUE(f.lapic.set_apic_base(kBase));
}

TEST(LapicBase, illegal_transitions_fault_and_change_nothing) {
  LapicFixture f;
  EXPECT_FALSE(f.lapic.set_apic_base(kBase | kApicBaseX2apic));
  f.lapic.set_apic_base(kX2apicMode);
  EXPECT_FALSE(f.lapic.set_apic_base(kXapicMode));
  EXPECT_FALSE(f.lapic.set_apic_base(kBase | kApicBaseX2apic));
  EXPECT_EQ(f.lapic.apic_base(), kX2apicMode);
  f.lapic.set_apic_base(kBase);
  EXPECT_FALSE(f.lapic.set_apic_base(kX2apicMode));
  EXPECT_FALSE(f.lapic.set_apic_base(kBase | kApicBaseX2apic));
  EXPECT_EQ(f.lapic.apic_base(), kBase);
}

TEST(LapicBase, reserved_bits_fault) {
  LapicFixture f({.id = VcpuId(3), .phys_bits = 40});
  EXPECT_FALSE(f.lapic.set_apic_base(kXapicMode | 1));
  EXPECT_FALSE(f.lapic.set_apic_base(kXapicMode | 1U << 9));
  EXPECT_FALSE(f.lapic.set_apic_base(kXapicMode | uint64_t{1} << 40));
  EXPECT_TRUE(f.lapic.set_apic_base(kXapicMode | uint64_t{1} << 39));
}

TEST(LapicBase, x2apic_faults_when_not_offered) {
  LapicFixture f({.id = VcpuId(3), .has_x2apic = false});
  EXPECT_FALSE(f.lapic.set_apic_base(kX2apicMode));
}

TEST(LapicBase, relocation_moves_the_page) {
  LapicFixture f;
  EXPECT_TRUE(f.lapic.set_apic_base(0xfed4'0000 | kApicBaseEnable));
  EXPECT_EQ(f.lapic.mmio_base(), 0xfed4'0000U);
}

TEST(LapicBase, disabling_resets_the_registers_but_cr8_stays) {
  LapicFixture f;
  f.enable();
  f.lapic.set_tpr(6);
  f.write(kLdr, 0x0100'0000);
  f.lapic.set_apic_base(kBase);
  EXPECT_EQ(f.lapic.tpr(), 6);
  f.lapic.set_tpr(7);
  EXPECT_EQ(f.lapic.tpr(), 7);
  f.lapic.set_apic_base(kXapicMode);
  EXPECT_EQ(f.read(kTpr), 0x70U);
  EXPECT_EQ(f.read(kLdr), 0U);
  EXPECT_EQ(f.read(kSpurious), 0xffU);
}

TEST(LapicBase, entering_x2apic_keeps_what_is_pending) {
  LapicFixture f;
  f.enable();
  f.deliver(0x77);
  f.lapic.set_apic_base(kX2apicMode);
  EXPECT_EQ(f.lapic.pending_vector(), 0x77);
}

// --- State ---

TEST(LapicState, save_and_restore_give_the_same_apic) {
  LapicFixture a;
  a.enable();
  a.write(kLdr, 0x0400'0000);
  a.write(kTpr, 0x20);
  a.write(kLvtTimer, kLvtTimerPeriodic | 0x31);
  a.write(kDivide, 0xb);
  a.write(kInitialCount, 5'000'000);
  a.clock.now_ns += 1'000'000;
  a.deliver(0x61, true);
  a.lapic.accept();
  a.deliver(0x41);
  a.lapic.deliver({.mode = DeliveryMode::Nmi});
  a.lapic.deliver({.mode = DeliveryMode::StartUp, .vector = 7});
  a.deliver(2);
  const LapicState state = a.lapic.save();
  EXPECT_EQ(state.regs[kCurrentCount >> 4], 4'000'000U);

  LapicFixture b;
  b.clock.now_ns = 77'000'000;
  b.lapic.restore(state);
  EXPECT_EQ(b.lapic.save(), state);
  EXPECT_EQ(b.host.deadline, 81'000'000U);
  EXPECT_TRUE(b.lapic.take_nmi());
  EXPECT_EQ(b.lapic.take_sipi(), 7);
  b.write(kEoi, 0);
  EXPECT_EQ(b.host.eois, std::vector<uint8_t>{0x61});
  EXPECT_EQ(b.lapic.accept(), 0x41);
  EXPECT_EQ(b.errors(), kEsrReceiveIllegalVector);
}

TEST(LapicState, tsc_deadline_survives) {
  LapicFixture a;
  a.enable_x2apic();
  a.lapic.msr_write(msr(kLvtTimer), kLvtTimerDeadline | 0xee);
  a.lapic.set_tsc_deadline(9'000'000);
  LapicFixture b;
  b.lapic.restore(a.lapic.save());
  EXPECT_EQ(b.lapic.tsc_deadline(), 9'000'000U);
  EXPECT_EQ(b.host.deadline, 9'000'000U);
}

TEST(LapicState, absurd_state_is_brought_into_shape) {
  LapicState state;
  state.regs.fill(0xffff'ffff);
  state.apic_base = kApicBaseX2apic;
  state.nmis_pending = 200;
  LapicFixture f;
  f.lapic.restore(state);
  EXPECT_FALSE(f.lapic.is_enabled());
  EXPECT_EQ(f.lapic.apic_base(), 0U);
  state.apic_base = kXapicMode;
  f.lapic.restore(state);
  EXPECT_EQ(f.read(kId), 3U << 24);
  EXPECT_EQ(f.read(kVersion), kApicVersion);
  EXPECT_EQ(f.read(kIrr), 0xffff'0000U);
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_TRUE(f.lapic.take_nmi());
  EXPECT_FALSE(f.lapic.take_nmi());
}

}  // namespace
}  // namespace trapeze
