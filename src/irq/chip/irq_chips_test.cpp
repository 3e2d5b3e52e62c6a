#include "irq/chip/irq_chips.h"

#include <gtest/gtest.h>

#include <vector>

namespace trapeze {
namespace {

struct FakeSink final : ApicMessageSink {
  bool send(const ApicMessage& message) override {
    sent.push_back(message);
    return true;
  }
  std::vector<ApicMessage> sent;
};

struct FakeHost final : IrqChipsHost {
  void pic_output_changed(bool asserted) override { outputs.push_back(asserted); }
  void deadline_changed() override { ++deadline_changes; }
  std::vector<bool> outputs;
  int deadline_changes = 0;
};

struct ChipsFixture {
  ChipsFixture() { clock.now_ns = 1'000'000; }
  void out(uint16_t port, uint8_t value) { chips.pio_write(Port(port), Width::Byte, value); }
  uint32_t in(uint16_t port) { return chips.pio_read(Port(port), Width::Byte); }
  void init_pic() {
    out(0x20, 0x11);
    out(0x21, 0x30);
    out(0x21, 0x04);
    out(0x21, 0x01);
    out(0xa0, 0x11);
    out(0xa1, 0x38);
    out(0xa1, 0x02);
    out(0xa1, 0x01);
  }
  void set_redirection(unsigned pin, uint32_t low) {
    chips.ioapic_write(0, Width::Dword, 0x10 + 2 * pin);
    chips.ioapic_write(0x10, Width::Dword, low);
  }
  void start_pit(uint16_t count) {
    out(0x43, 0x34);
    out(0x40, static_cast<uint8_t>(count));
    out(0x40, static_cast<uint8_t>(count >> 8));
  }

  FakeClock clock;
  FakeSink sink;
  FakeHost host;
  IrqChips chips{clock, sink, host};
};

TEST(IrqChips, isa_gsi_reaches_both_controllers) {
  ChipsFixture f;
  f.init_pic();
  f.set_redirection(4, 0x54);
  f.chips.set_irq_level(Gsi(4), true);
  ASSERT_EQ(f.sink.sent.size(), 1U);
  EXPECT_EQ(f.sink.sent[0].vector, 0x54);
  EXPECT_EQ(f.host.outputs, std::vector<bool>{true});
  EXPECT_EQ(f.chips.acknowledge_pic(), 0x34);
  EXPECT_EQ(f.host.outputs, (std::vector<bool>{true, false}));
}

TEST(IrqChips, pci_gsi_reaches_the_io_apic_only) {
  ChipsFixture f;
  f.init_pic();
  f.set_redirection(16, 0x60 | 1U << 15);
  f.chips.set_irq_level(Gsi(16), true);
  EXPECT_EQ(f.sink.sent.size(), 1U);
  EXPECT_TRUE(f.host.outputs.empty());
  f.chips.eoi(0x60);
  EXPECT_EQ(f.sink.sent.size(), 2U);
}

TEST(IrqChips, unknown_gsi_is_ignored) {
  ChipsFixture f;
  f.chips.set_irq_level(Gsi(24), true);
  f.chips.set_irq_level(Gsi(0xffff'ffff), true);
  EXPECT_TRUE(f.sink.sent.empty());
}

TEST(IrqChips, pic_output_falls_and_rises_between_two_interrupts) {
  ChipsFixture f;
  f.init_pic();
  f.chips.set_irq_level(Gsi(4), true);
  f.chips.set_irq_level(Gsi(3), true);
  f.host.outputs.clear();
  EXPECT_EQ(f.chips.acknowledge_pic(), 0x33);
  f.out(0x20, 0x20);
  EXPECT_EQ(f.host.outputs, (std::vector<bool>{false, true}));
  EXPECT_EQ(f.chips.acknowledge_pic(), 0x34);
}

TEST(IrqChips, pic_output_is_io_apic_pin_0) {
  ChipsFixture f;
  f.init_pic();
  f.set_redirection(0, 7U << 8);
  f.chips.set_irq_level(Gsi(4), true);
  ASSERT_EQ(f.sink.sent.size(), 1U);
  EXPECT_EQ(f.sink.sent[0].mode, DeliveryMode::ExtInt);
}

TEST(IrqChips, pit_drives_pin_2_and_irq_0) {
  ChipsFixture f;
  f.init_pic();
  f.set_redirection(2, 0x70);
  f.start_pit(1193);  // about 1 ms
  f.chips.acknowledge_pic();
  f.out(0x20, 0x20);
  f.sink.sent.clear();
  f.host.outputs.clear();
  ASSERT_TRUE(f.chips.next_deadline_ns().has_value());
  for (int i = 0; i < 3; ++i) {
    f.clock.now_ns = *f.chips.next_deadline_ns();
    f.chips.run_timers(f.clock.now_ns);
    EXPECT_EQ(f.chips.acknowledge_pic(), 0x30);
    f.out(0x20, 0x20);
  }
  ASSERT_EQ(f.sink.sent.size(), 3U);
  EXPECT_EQ(f.sink.sent[2].vector, 0x70);
  EXPECT_NEAR(static_cast<double>(f.clock.now_ns), 4'000'000, 5000);
}

TEST(IrqChips, deadline_change_is_told) {
  ChipsFixture f;
  EXPECT_EQ(f.chips.next_deadline_ns(), std::nullopt);
  f.start_pit(10'000);
  EXPECT_EQ(f.host.deadline_changes, 1);
  f.out(0x43, 0x30);
  EXPECT_EQ(f.host.deadline_changes, 2);
  EXPECT_EQ(f.chips.next_deadline_ns(), std::nullopt);
}

TEST(IrqChips, msi_is_parsed_and_sent) {
  ChipsFixture f;
  f.chips.send_msi({.address = 0xfee0'1000, .data = 0x45});
  ASSERT_EQ(f.sink.sent.size(), 1U);
  EXPECT_EQ(f.sink.sent[0], (ApicMessage{.vector = 0x45, .asserted = false, .destination = 1}));
  f.chips.send_msi({.address = 0x1000, .data = 0x45});
  EXPECT_EQ(f.sink.sent.size(), 1U);
}

TEST(IrqChips, ports_are_claimed_and_wide_accesses_split) {
  ChipsFixture f;
  constexpr uint16_t kOurs[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61};
  constexpr uint16_t kForeign[] = {0x1f, 0x22, 0x3f, 0x44, 0x60, 0x62, 0xa2, 0x4d2};
  for (const uint16_t port : kOurs) EXPECT_TRUE(IrqChips::handles(Port(port)));
  for (const uint16_t port : kForeign) EXPECT_FALSE(IrqChips::handles(Port(port)));
  f.chips.pio_write(Port{0x4d0}, Width::Word, 0xffff);
  EXPECT_EQ(f.chips.pio_read(Port{0x4d0}, Width::Word), 0xdef8U);
  EXPECT_EQ(f.chips.pio_read(Port{0x4d1}, Width::Dword), 0xffff'ffdeU);
  EXPECT_EQ(f.chips.pio_read(Port{0xffff}, Width::Dword), 0xffff'ffffU);
}

TEST(IrqChips, state_survives_save_and_restore) {
  ChipsFixture a;
  a.init_pic();
  a.set_redirection(16, 0x60 | 1U << 15);
  a.chips.set_irq_level(Gsi(16), true);
  a.chips.set_irq_level(Gsi(4), true);
  a.start_pit(20'000);
  const IrqChipsState state = a.chips.save();
  ChipsFixture b;
  b.clock.now_ns = a.clock.now_ns;
  b.chips.restore(state);
  EXPECT_EQ(b.chips.save(), state);
  EXPECT_EQ(b.host.outputs, std::vector<bool>{true});
  EXPECT_EQ(b.chips.next_deadline_ns(), a.chips.next_deadline_ns());
}

TEST(IrqChips, reset_silences_everything) {
  ChipsFixture f;
  f.init_pic();
  f.start_pit(1000);
  f.chips.reset();
  EXPECT_EQ(f.chips.next_deadline_ns(), std::nullopt);
  EXPECT_FALSE(f.host.outputs.back());
  EXPECT_EQ(f.in(0x21), 0xffU);
}

}  // namespace
}  // namespace trapeze
