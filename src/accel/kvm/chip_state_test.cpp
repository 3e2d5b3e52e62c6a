#include "accel/kvm/chip_state.h"

#include <gtest/gtest.h>

namespace trapeze::kvm {
namespace {

Pic8259State busy_pic() {
  Pic8259State chip;
  chip.lines = 0x91;
  chip.edge_latch = 0x10;
  chip.imr = 0xee;
  chip.isr = 0x01;
  chip.elcr = 0x80;
  chip.vector_base = 0x30;
  chip.lowest = 4;
  chip.init_step = PicInitStep::Icw3;
  chip.wants_icw4 = true;
  chip.auto_eoi = true;
  chip.rotate_on_auto_eoi = true;
  chip.special_mask = true;
  chip.special_fully_nested = true;
  chip.poll = true;
  chip.read_isr = true;
  return chip;
}

TEST(KvmChipState, Pic_GoesToKvmAndBackUnchanged) {
  kvm_pic_state current{};
  current.elcr_mask = 0xf8;
  const kvm_pic_state kvm = to_kvm(busy_pic(), current, false);
  EXPECT_EQ(kvm.elcr_mask, 0xf8) << "what KVM fixed stays";
  EXPECT_EQ(from_kvm(kvm, false), busy_pic());
  EXPECT_EQ(from_kvm(to_kvm({}, {}, false), false), Pic8259State{});
}

TEST(KvmChipState, PicRequests_AreEdgesAndLevelsInOneRegister) {
  const kvm_pic_state kvm = to_kvm(busy_pic(), {}, false);
  EXPECT_EQ(kvm.irr, 0x90) << "the edge of input 4, the level of input 7";
  EXPECT_EQ(kvm.last_irr, 0x91);
  EXPECT_EQ(kvm.priority_add, 5) << "input 5 is the highest when 4 is the lowest";
  EXPECT_EQ(kvm.init_state, 2);
}

TEST(KvmChipState, TimersWire_IsLowSoThatTheFirstPulseIsAnEdge) {
  EXPECT_EQ(to_kvm(busy_pic(), {}, true).last_irr, 0x90);
}

TEST(KvmChipState, CascadeInput_IsNoWireOfTheCanonicalPrimary) {
  kvm_pic_state kvm{};
  kvm.irr = kvm.last_irr = 0x06;
  EXPECT_EQ(from_kvm(kvm, true).lines, 0x02);
  EXPECT_EQ(from_kvm(kvm, true).edge_latch, 0x02);
  EXPECT_EQ(from_kvm(kvm, false).lines, 0x06);
}

TEST(KvmChipState, IoApic_GoesToKvmAndBack) {
  IoApicState chip;
  chip.id = 3;
  chip.select = 0x12;
  chip.redirection[4] = 0x0100'0000'0000'c931;  // level, Remote IRR, logical, lowest priority
  chip.redirection[23] = 0x1'0000;
  chip.lines = 1U << 4;
  const kvm_ioapic_state kvm = to_kvm(chip);
  EXPECT_EQ(kvm.redirtbl[4].fields.vector, 0x31);
  EXPECT_EQ(kvm.redirtbl[4].fields.trig_mode, 1);
  EXPECT_EQ(kvm.redirtbl[4].fields.remote_irr, 1);
  EXPECT_EQ(kvm.redirtbl[4].fields.dest_id, 1);
  EXPECT_EQ(kvm.redirtbl[23].fields.mask, 1);
  EXPECT_EQ(kvm.base_address, 0xfec0'0000U);
  EXPECT_EQ(from_kvm(kvm), chip);
}

TEST(KvmChipState, AssertedEdge_IsNotSentASecondTime) {
  IoApicState chip;
  chip.redirection[4] = 0x31;
  chip.lines = 1U << 4;
  EXPECT_EQ(to_kvm(chip).irr, 0U);
}

TEST(KvmChipState, Pit_GoesToKvmAndBack) {
  PitState pit;
  pit.port61 = 3;
  pit.channels[2].gate = false;
  PitChannelState& channel = pit.channels[0];
  channel.mode = 2;
  channel.count = 11'932;
  channel.loaded = true;
  channel.triggered = true;
  channel.write_high_next = true;
  channel.write_low = 0x9c;
  channel.count_latched = true;
  channel.read_high_next = true;
  channel.count_latch = 0x1234;
  channel.status_latched = true;
  channel.status_latch = 0xb4;
  const kvm_pit_state2 kvm = to_kvm(pit);
  EXPECT_EQ(kvm.channels[0].rw_mode, 3);
  EXPECT_EQ(kvm.channels[0].write_state, 4) << "the high byte comes next";
  EXPECT_EQ(kvm.channels[0].count_latched, 2) << "the high byte is left to read";
  EXPECT_EQ(kvm.flags, unsigned{KVM_PIT_FLAGS_SPEAKER_DATA_ON});
  const PitState back = from_kvm(kvm, 1'000'000'000);
  EXPECT_EQ(back.channels[0], channel);
  EXPECT_EQ(back.port61, 2) << "the gate is that of channel 2, which was off";
}

TEST(KvmChipState, PitThatNobodyProgrammed_DoesNotCount) {
  kvm_pit_state2 kvm{};
  for (auto& channel : kvm.channels) channel.mode = 0xff;
  for (const PitChannelState& channel : from_kvm(kvm, 5).channels) {
    EXPECT_FALSE(channel.loaded);
    EXPECT_EQ(channel.mode, 0);
    EXPECT_EQ(channel.count, 0x10000U);
  }
}

TEST(KvmChipState, PitChannel2_KeepsItsPhase) {
  kvm_pit_state2 kvm{};
  kvm.channels[2].mode = 0;
  kvm.channels[2].gate = 1;
  kvm.channels[2].rw_mode = 3;
  kvm.channels[2].count = 1000;
  kvm.channels[2].count_load_time = 1'000'000'000;
  const PitState pit = from_kvm(kvm, 1'000'500'000);
  EXPECT_EQ(pit.channels[2].start_tick, 596U) << "half a millisecond at 1.193182 MHz";
  EXPECT_EQ(pit.port61, 1);
}

// Structures of another kernel, or of a broken one, stay within what irq/chip takes.
TEST(KvmChipState, AbsurdValues_AreBounded) {
  kvm_pic_state pic{};
  pic.init_state = 200;
  pic.priority_add = 200;
  EXPECT_EQ(from_kvm(pic, true).init_step, PicInitStep::Icw4);
  EXPECT_LT(from_kvm(pic, true).lowest, 8);
  kvm_pit_state2 pit{};
  pit.channels[1].count = ~0U;
  pit.channels[1].rw_mode = 77;
  pit.channels[1].count_load_time = -5;
  EXPECT_EQ(from_kvm(pit, 10).channels[1].count, 0x10000U);
  EXPECT_EQ(from_kvm(pit, 10).channels[1].access, PitAccess::LowHigh);
  kvm_ioapic_state ioapic{};
  ioapic.irr = ~0U;
  EXPECT_EQ(from_kvm(ioapic).lines, 0xff'ffffU);
}

}  // namespace
}  // namespace trapeze::kvm
