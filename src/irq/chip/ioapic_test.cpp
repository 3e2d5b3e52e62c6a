#include "irq/chip/ioapic.h"

#include <gtest/gtest.h>

#include <vector>

namespace trapeze {
namespace {

struct FakeSink final : ApicMessageSink {
  bool send(const ApicMessage& message) override {
    sent.push_back(message);
    return accepts;
  }
  std::vector<ApicMessage> sent;
  bool accepts = true;
};

constexpr uint32_t kLevel = 1U << 15;
constexpr uint32_t kMasked = 1U << 16;
constexpr uint32_t kRemoteIrr = 1U << 14;
constexpr unsigned kPin = 14;

struct IoApicFixture {
  uint32_t read(uint8_t index) {
    chip.mmio_write(0, Width::Dword, index);
    return static_cast<uint32_t>(chip.mmio_read(0x10, Width::Dword));
  }
  void write(uint8_t index, uint32_t value) {
    chip.mmio_write(0, Width::Dword, index);
    chip.mmio_write(0x10, Width::Dword, value);
  }
  static constexpr uint8_t low_of(unsigned pin) { return static_cast<uint8_t>(0x10 + 2 * pin); }
  static constexpr uint8_t high_of(unsigned pin) { return static_cast<uint8_t>(0x11 + 2 * pin); }
  bool remote_irr() { return (read(low_of(kPin)) & kRemoteIrr) != 0; }
  size_t sent() const { return sink.sent.size(); }

  FakeSink sink;
  IoApic chip{sink};
};

TEST(IoApic, identification_registers) {
  IoApicFixture f;
  EXPECT_EQ(f.read(1), 0x0017'0020U);
  f.write(1, 0xffff'ffff);
  EXPECT_EQ(f.read(1), 0x0017'0020U);
  f.write(0, 0xffff'ffff);
  EXPECT_EQ(f.read(0), 0x0f00'0000U);
  EXPECT_EQ(f.read(2), 0x0f00'0000U);
  f.write(2, 0);
  EXPECT_EQ(f.read(2), 0x0f00'0000U);
}

TEST(IoApic, all_pins_start_masked) {
  IoApicFixture f;
  for (unsigned pin = 0; pin < IoApic::kPins; ++pin) {
    f.chip.set_level(pin, true);
    EXPECT_EQ(f.read(f.low_of(pin)), kMasked);
  }
  EXPECT_EQ(f.sent(), 0U);
}

TEST(IoApic, read_only_and_reserved_bits_do_not_stick) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0xffff'ffff);
  EXPECT_EQ(f.read(f.low_of(kPin)), 0x0001'afffU);
  f.write(f.high_of(kPin), 0xffff'ffff);
  EXPECT_EQ(f.read(f.high_of(kPin)), 0xff00'0000U);
}

TEST(IoApic, registers_beyond_the_pins_do_nothing) {
  IoApicFixture f;
  for (const uint8_t index : {uint8_t{3}, uint8_t{0x0f}, uint8_t{0x40}, uint8_t{0xff}}) {
    f.write(index, 0x41);
    EXPECT_EQ(f.read(index), 0U);
  }
}

TEST(IoApic, narrow_and_odd_accesses_get_an_answer) {
  IoApicFixture f;
  f.chip.mmio_write(0, Width::Byte, 1);
  EXPECT_EQ(f.chip.mmio_read(0x12, Width::Byte), 0x17U);
  EXPECT_EQ(f.chip.mmio_read(0x10, Width::Qword), 0x0017'0020U);
  EXPECT_EQ(f.chip.mmio_read(0x0, Width::Byte), 1U);
  EXPECT_EQ(f.chip.mmio_read(0x1000, Width::Dword), 0U);
  EXPECT_EQ(f.chip.mmio_read(~uint64_t{0}, Width::Byte), 0U);
  f.chip.mmio_write(0x11, Width::Byte, 0xff);
  EXPECT_EQ(f.read(1), 0x0017'0020U);
}

TEST(IoApic, edge_sends_once_for_each_rise) {
  IoApicFixture f;
  f.write(f.high_of(kPin), 0x0500'0000);
  f.write(f.low_of(kPin), 0x0976);
  f.chip.set_level(kPin, true);
  f.chip.set_level(kPin, true);
  ASSERT_EQ(f.sent(), 1U);
  EXPECT_EQ(f.sink.sent[0], (ApicMessage{.mode = DeliveryMode::LowestPriority,
                                         .vector = 0x76,
                                         .logical = true,
                                         .destination = 5}));
  EXPECT_FALSE(f.remote_irr());
  f.chip.set_level(kPin, false);
  f.chip.set_level(kPin, true);
  EXPECT_EQ(f.sent(), 2U);
}

TEST(IoApic, edge_behind_the_mask_is_lost) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x81 | kMasked);
  f.chip.set_level(kPin, true);
  f.write(f.low_of(kPin), 0x81);
  EXPECT_EQ(f.sent(), 0U);
}

TEST(IoApic, level_sends_again_after_eoi_until_released) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x77 | kLevel);
  f.chip.set_level(kPin, true);
  f.chip.set_level(kPin, true);
  EXPECT_EQ(f.sent(), 1U);
  EXPECT_TRUE(f.sink.sent[0].level_triggered);
  EXPECT_TRUE(f.remote_irr());
  f.chip.eoi(0x77);
  EXPECT_EQ(f.sent(), 2U);
  EXPECT_TRUE(f.remote_irr());
  f.chip.set_level(kPin, false);
  EXPECT_TRUE(f.remote_irr());
  f.chip.eoi(0x77);
  EXPECT_EQ(f.sent(), 2U);
  EXPECT_FALSE(f.remote_irr());
}

TEST(IoApic, repeated_level_assertion_after_eoi_is_a_new_interrupt) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x99 | kLevel);
  f.chip.set_level(kPin, true);
  f.chip.set_level(kPin, false);
  f.chip.eoi(0x99);
  f.chip.set_level(kPin, true);
  EXPECT_EQ(f.sent(), 2U);
}

TEST(IoApic, eoi_of_another_vector_does_nothing) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x77 | kLevel);
  f.chip.set_level(kPin, true);
  f.chip.eoi(0x78);
  EXPECT_TRUE(f.remote_irr());
  EXPECT_EQ(f.sent(), 1U);
}

TEST(IoApic, eoi_register_works_like_the_broadcast) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x77 | kLevel);
  f.chip.set_level(kPin, true);
  f.chip.set_level(kPin, false);
  f.chip.mmio_write(0x40, Width::Dword, 0x77);
  EXPECT_FALSE(f.remote_irr());
}

TEST(IoApic, level_behind_the_mask_goes_out_when_unmasked) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x82 | kLevel | kMasked);
  f.chip.set_level(kPin, true);
  EXPECT_EQ(f.sent(), 0U);
  f.write(f.low_of(kPin), 0x82 | kLevel);
  EXPECT_EQ(f.sent(), 1U);
}

TEST(IoApic, masking_in_the_handler_holds_back_the_retrigger) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x83 | kLevel);
  f.chip.set_level(kPin, true);
  f.write(f.low_of(kPin), 0x83 | kLevel | kMasked);
  f.chip.eoi(0x83);
  EXPECT_EQ(f.sent(), 1U);
  f.write(f.low_of(kPin), 0x83 | kLevel);
  EXPECT_EQ(f.sent(), 2U);
}

TEST(IoApic, changing_the_destination_does_not_send_twice) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x84 | kLevel);
  f.chip.set_level(kPin, true);
  f.write(f.high_of(kPin), 0x0100'0000);
  EXPECT_EQ(f.sent(), 1U);
  EXPECT_TRUE(f.remote_irr());
}

TEST(IoApic, switch_to_edge_clears_remote_irr) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 0x84 | kLevel);
  f.chip.set_level(kPin, true);
  f.write(f.low_of(kPin), 0x84 | kMasked);
  f.chip.set_level(kPin, false);
  f.write(f.low_of(kPin), 0x84 | kLevel);
  EXPECT_FALSE(f.remote_irr());
}

TEST(IoApic, level_that_nobody_takes_does_not_hang) {
  IoApicFixture f;
  f.sink.accepts = false;
  f.write(f.low_of(kPin), 0x84 | kLevel);
  f.chip.set_level(kPin, true);
  EXPECT_FALSE(f.remote_irr());
  f.sink.accepts = true;
  f.write(f.high_of(kPin), 0);
  EXPECT_TRUE(f.remote_irr());
}

TEST(IoApic, nmi_is_edge_triggered_even_with_the_level_bit) {
  IoApicFixture f;
  f.write(f.low_of(kPin), 4U << 8 | kLevel);
  f.chip.set_level(kPin, true);
  f.chip.set_level(kPin, true);
  ASSERT_EQ(f.sent(), 1U);
  EXPECT_EQ(f.sink.sent[0].mode, DeliveryMode::Nmi);
  EXPECT_FALSE(f.sink.sent[0].level_triggered);
  EXPECT_FALSE(f.remote_irr());
}

TEST(IoApic, unknown_pin_is_ignored) {
  IoApicFixture f;
  f.chip.set_level(24, true);
  f.chip.set_level(0xffff'ffff, true);
  EXPECT_EQ(f.chip.save().lines, 0U);
}

TEST(IoApic, state_survives_save_and_restore) {
  IoApicFixture a;
  a.write(0, 0x0300'0000);
  a.write(a.high_of(kPin), 0x0200'0000);
  a.write(a.low_of(kPin), 0x84 | kLevel);
  a.chip.set_level(kPin, true);
  IoApicFixture b;
  b.chip.restore(a.chip.save());
  EXPECT_EQ(b.chip.save(), a.chip.save());
  b.chip.eoi(0x84);
  ASSERT_EQ(b.sent(), 1U);
  EXPECT_EQ(b.sink.sent[0].destination, 2U);
}

TEST(IoApic, absurd_state_is_brought_into_shape) {
  IoApicState state;
  state.id = 0xffff'ffff;
  state.lines = 0xffff'ffff;
  state.redirection.fill(~uint64_t{0});
  IoApicFixture f;
  f.chip.restore(state);
  EXPECT_EQ(f.read(0), 0x0f00'0000U);
  EXPECT_EQ(f.chip.save().lines, 0x00ff'ffffU);
  EXPECT_EQ(f.read(f.low_of(kPin)), 0x0001'afffU);  // mode 7 cannot have Remote IRR
}

}  // namespace
}  // namespace trapeze
