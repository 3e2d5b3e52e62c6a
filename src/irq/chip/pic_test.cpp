#include "irq/chip/pic.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

constexpr Port kCommand{0x20}, kData{0x21}, kCommand2{0xa0}, kData2{0xa1};
constexpr Port kElcr{0x4d0}, kElcr2{0x4d1};
constexpr uint8_t kEoi = 0x20;

// Both chips initialised as every PC does: vectors 0x30 and 0x38, nothing masked.
struct PicFixture {
  explicit PicFixture(uint8_t icw4 = 0x01) {
    init(kCommand, kData, 0x30, 0x04, icw4);
    init(kCommand2, kData2, 0x38, 0x02, 0x01);
  }
  void init(Port command, Port data, uint8_t base, uint8_t icw3, uint8_t icw4) {
    pic.write(command, 0x11);
    pic.write(data, base);
    pic.write(data, icw3);
    pic.write(data, icw4);
  }
  void pulse(unsigned irq) {
    pic.set_level(irq, true);
    pic.set_level(irq, false);
  }
  uint8_t irr() {
    pic.write(kCommand, 0x0a);
    return pic.read(kCommand);
  }
  uint8_t isr() {
    pic.write(kCommand, 0x0b);
    return pic.read(kCommand);
  }
  Pic pic;
};

TEST(Pic, silent_until_initialised) {
  Pic pic;
  pic.set_level(1, true);
  EXPECT_FALSE(pic.intr());
  pic.write(kCommand, 0x11);
  EXPECT_FALSE(pic.intr());
}

TEST(Pic, interrupt_goes_through_irr_and_isr) {
  PicFixture f;
  f.pulse(4);
  EXPECT_TRUE(f.pic.intr());
  EXPECT_EQ(f.irr(), 0x10);
  EXPECT_EQ(f.pic.acknowledge(), 0x34);
  EXPECT_FALSE(f.pic.intr());
  EXPECT_EQ(f.irr(), 0);
  EXPECT_EQ(f.isr(), 0x10);
  f.pic.write(kCommand, kEoi);
  EXPECT_EQ(f.isr(), 0);
}

TEST(Pic, edge_is_seen_once_while_the_wire_stays_high) {
  PicFixture f;
  f.pic.set_level(4, true);
  f.pic.acknowledge();
  f.pic.write(kCommand, kEoi);
  EXPECT_FALSE(f.pic.intr());
  f.pic.set_level(4, true);
  EXPECT_FALSE(f.pic.intr());
  f.pic.set_level(4, false);
  f.pic.set_level(4, true);
  EXPECT_TRUE(f.pic.intr());
}

TEST(Pic, level_input_asks_until_released) {
  PicFixture f;
  f.pic.write(kElcr, 0xff);
  EXPECT_EQ(f.pic.read(kElcr), 0xf8);
  f.pic.write(kElcr2, 0xff);
  EXPECT_EQ(f.pic.read(kElcr2), 0xde);
  f.pic.set_level(5, true);
  EXPECT_EQ(f.pic.acknowledge(), 0x35);
  f.pic.write(kCommand, kEoi);
  EXPECT_TRUE(f.pic.intr());
  f.pic.set_level(5, false);
  EXPECT_FALSE(f.pic.intr());
}

TEST(Pic, lower_input_has_priority_and_interrupts_a_higher_one) {
  PicFixture f;
  f.pulse(6);
  f.pulse(3);
  EXPECT_EQ(f.pic.acknowledge(), 0x33);
  EXPECT_FALSE(f.pic.intr());
  f.pulse(1);
  EXPECT_EQ(f.pic.acknowledge(), 0x31);
  f.pic.write(kCommand, kEoi);
  EXPECT_EQ(f.isr(), 0x08);
  f.pic.write(kCommand, kEoi);
  EXPECT_EQ(f.pic.acknowledge(), 0x36);
}

TEST(Pic, mask_blocks_and_remembers) {
  PicFixture f;
  f.pic.write(kData, 0x10);
  EXPECT_EQ(f.pic.read(kData), 0x10);
  f.pulse(4);
  EXPECT_FALSE(f.pic.intr());
  f.pic.write(kData, 0);
  EXPECT_TRUE(f.pic.intr());
}

TEST(Pic, secondary_arrives_through_the_cascade) {
  PicFixture f;
  f.pulse(12);
  EXPECT_EQ(f.irr(), 0x04);
  EXPECT_EQ(f.pic.acknowledge(), 0x3c);
  EXPECT_EQ(f.isr(), 0x04);
  f.pic.write(kCommand2, 0x0b);
  EXPECT_EQ(f.pic.read(kCommand2), 0x10);
  f.pulse(8);  // higher on the secondary, but the primary is in service at input 2
  EXPECT_FALSE(f.pic.intr());
  f.pic.write(kCommand2, kEoi);
  f.pic.write(kCommand, kEoi);
  EXPECT_EQ(f.pic.acknowledge(), 0x38);
}

TEST(Pic, special_fully_nested_lets_the_secondary_nest) {
  PicFixture f(/*icw4=*/0x11);
  f.pulse(12);
  f.pic.acknowledge();
  f.pulse(14);
  EXPECT_FALSE(f.pic.intr());
  f.pulse(8);
  EXPECT_TRUE(f.pic.intr());
  EXPECT_EQ(f.pic.acknowledge(), 0x38);
}

TEST(Pic, request_that_went_away_is_spurious_irq_7) {
  PicFixture f;
  f.pic.write(kElcr, 0x20);
  f.pic.set_level(5, true);
  f.pic.set_level(5, false);
  EXPECT_EQ(f.pic.acknowledge(), 0x37);
  EXPECT_EQ(f.isr(), 0);
}

TEST(Pic, specific_eoi_ends_the_named_input) {
  PicFixture f;
  f.pulse(6);
  f.pic.acknowledge();
  f.pulse(2 + 1);
  f.pic.acknowledge();
  f.pic.write(kCommand, 0x66);
  EXPECT_EQ(f.isr(), 0x08);
}

TEST(Pic, auto_eoi_leaves_nothing_in_service) {
  PicFixture f(/*icw4=*/0x03);
  f.pulse(4);
  f.pulse(5);
  EXPECT_EQ(f.pic.acknowledge(), 0x34);
  EXPECT_EQ(f.isr(), 0);
  EXPECT_EQ(f.pic.acknowledge(), 0x35);
}

TEST(Pic, rotation_on_eoi_makes_the_served_input_the_lowest) {
  PicFixture f;
  f.pulse(3);
  f.pic.acknowledge();
  f.pic.write(kCommand, 0xa0);  // rotate on non-specific EOI
  f.pulse(3);
  f.pulse(4);
  EXPECT_EQ(f.pic.acknowledge(), 0x34);
}

TEST(Pic, set_priority_names_the_lowest_input) {
  PicFixture f;
  f.pic.write(kCommand, 0xc4);
  f.pulse(1);
  f.pulse(5);
  EXPECT_EQ(f.pic.acknowledge(), 0x35);
}

TEST(Pic, rotation_in_auto_eoi_mode) {
  PicFixture f(/*icw4=*/0x03);
  f.pic.write(kCommand, 0x80);
  f.pulse(1);
  f.pic.acknowledge();
  f.pulse(0);
  f.pulse(7);
  EXPECT_EQ(f.pic.acknowledge(), 0x37);
}

TEST(Pic, special_mask_mode_lets_lower_inputs_in) {
  PicFixture f;
  f.pulse(3);
  f.pic.acknowledge();
  f.pulse(6);
  EXPECT_FALSE(f.pic.intr());
  f.pic.write(kData, 0x08);
  f.pic.write(kCommand, 0x68);
  EXPECT_EQ(f.pic.acknowledge(), 0x36);
  f.pic.write(kCommand, kEoi);  // the masked input 3 is not the one that ends
  EXPECT_EQ(f.isr(), 0x08);
}

TEST(Pic, poll_acknowledges_by_a_read) {
  PicFixture f;
  f.pulse(4);
  f.pic.write(kCommand, 0x0c);
  EXPECT_EQ(f.pic.read(kCommand), 0x84);
  EXPECT_EQ(f.isr(), 0x10);
  f.pic.write(kCommand, 0x0c);
  EXPECT_EQ(f.pic.read(kCommand), 0);
}

TEST(Pic, reinitialisation_clears_mask_service_and_latched_edges) {
  PicFixture f;
  f.pic.write(kData, 0xff);
  f.pic.set_level(4, true);
  f.init(kCommand, kData, 0x20, 4, 1);
  EXPECT_EQ(f.pic.read(kData), 0);
  EXPECT_FALSE(f.pic.intr());  // the edge circuit needs a new rise
  f.pic.set_level(4, false);
  f.pic.set_level(4, true);
  EXPECT_EQ(f.pic.acknowledge(), 0x24);
}

TEST(Pic, single_mode_and_no_icw4_shorten_the_sequence) {
  PicFixture f;
  f.pic.write(kCommand, 0x12);
  f.pic.write(kData, 0x28);
  f.pic.write(kData, 0x5a);  // already the mask
  EXPECT_EQ(f.pic.read(kData), 0x5a);
}

TEST(Pic, foreign_inputs_and_ports_do_nothing) {
  PicFixture f;
  f.pic.set_level(2, true);
  f.pic.set_level(16, true);
  f.pic.set_level(0xffff'ffff, true);
  EXPECT_FALSE(f.pic.intr());
  EXPECT_EQ(f.pic.read(Port{0x22}), 0xff);
  EXPECT_FALSE(Pic::handles(Port{0x22}));
}

TEST(Pic, state_survives_save_and_restore) {
  PicFixture a;
  a.pulse(12);
  a.pic.acknowledge();
  a.pulse(1);
  Pic b;
  b.restore(a.pic.save());
  EXPECT_EQ(b.save(), a.pic.save());
  EXPECT_EQ(b.acknowledge(), 0x31);
}

TEST(Pic, absurd_state_is_brought_into_shape) {
  PicState state;
  state.primary.lowest = 0xff;
  state.primary.vector_base = 0xff;
  state.primary.init_step = static_cast<PicInitStep>(77);
  state.primary.imr = 0;
  state.primary.edge_latch = 0xff;
  Pic pic;
  pic.restore(state);
  EXPECT_EQ(pic.acknowledge(), 0xf8);
}

}  // namespace
}  // namespace trapeze
