#include "irq/chip/pit.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

constexpr Port kCounter0{0x40}, kCounter2{0x42}, kControl{0x43}, kPort61{0x61};

// Time in ticks of the PIT, from some point that is no round number.
struct PitFixture {
  PitFixture() { pit.reset(now()); }
  uint64_t now() const {  // the first nanosecond of the tick
    const auto scaled = static_cast<unsigned __int128>(tick) * 1'000'000'000U + kPitHz - 1;
    return static_cast<uint64_t>(scaled / kPitHz);
  }
  void control(uint8_t value) { pit.write(kControl, value, now()); }
  void load(Port counter, uint16_t count) {
    pit.write(counter, static_cast<uint8_t>(count), now());
    pit.write(counter, static_cast<uint8_t>(count >> 8), now());
  }
  uint8_t read(Port port) { return pit.read(port, now()); }
  uint16_t read16(Port counter) {
    const uint8_t low = read(counter);
    return static_cast<uint16_t>(low | read(counter) << 8);
  }
  uint16_t latched(uint8_t channel) {
    control(static_cast<uint8_t>(channel << 6));
    return read16(Port(static_cast<uint16_t>(0x40 + channel)));
  }
  uint8_t status(unsigned channel) {
    control(static_cast<uint8_t>(0xe0 | 2U << channel));
    return read(Port(static_cast<uint16_t>(0x40 + channel)));
  }
  bool edge() { return pit.poll(now()).edge; }
  bool output2() { return (read(kPort61) & 0x20) != 0; }
  // The deadline, in ticks from now.
  std::optional<uint64_t> due_in() {
    const auto deadline = pit.next_deadline_ns();
    if (!deadline) return std::nullopt;
    const auto at = static_cast<unsigned __int128>(*deadline) * kPitHz / 1'000'000'000U;
    return static_cast<uint64_t>(at) - tick;
  }

  uint64_t tick = 123'456'789;
  Pit pit;
};

TEST(Pit, nothing_runs_after_reset) {
  PitFixture f;
  EXPECT_EQ(f.pit.next_deadline_ns(), std::nullopt);
  f.tick += 1'000'000;
  EXPECT_FALSE(f.edge());
}

TEST(Pit, mode_0_interrupts_once_at_terminal_count) {
  PitFixture f;
  f.control(0x30);
  f.load(kCounter0, 1000);
  EXPECT_FALSE(f.pit.poll(f.now()).level);
  EXPECT_EQ(f.due_in(), 1000U);
  f.tick += 999;
  EXPECT_FALSE(f.edge());
  f.tick += 1;
  EXPECT_TRUE(f.edge());
  EXPECT_EQ(f.pit.next_deadline_ns(), std::nullopt);
  f.tick += 1'000'000;
  EXPECT_FALSE(f.edge());
}

TEST(Pit, mode_0_low_byte_stops_the_counter) {
  PitFixture f;
  f.control(0x30);
  f.load(kCounter0, 1000);
  f.tick += 500;
  f.pit.write(kCounter0, 0x10, f.now());
  EXPECT_EQ(f.due_in(), std::nullopt);
  f.tick += 5000;
  EXPECT_FALSE(f.edge());
  f.pit.write(kCounter0, 0x00, f.now());
  EXPECT_EQ(f.due_in(), 16U);
}

TEST(Pit, mode_0_count_goes_on_below_zero) {
  PitFixture f;
  f.control(0x30);
  f.load(kCounter0, 10);
  f.tick += 4;
  EXPECT_EQ(f.latched(0), 6);
  f.tick += 8;
  EXPECT_EQ(f.latched(0), 0xfffe);
}

TEST(Pit, mode_2_is_periodic_on_its_grid) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 1000);
  EXPECT_TRUE(f.edge());  // the control word raised the output
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(f.due_in(), 1000U);
    f.tick += 1000;
    EXPECT_TRUE(f.edge());
    EXPECT_FALSE(f.edge());
  }
  f.tick += 3500;
  EXPECT_TRUE(f.edge());  // missed ones are one
  EXPECT_EQ(f.due_in(), 500U);
}

TEST(Pit, mode_2_counts_from_n_to_1) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 100);
  EXPECT_EQ(f.latched(0), 100);
  f.tick += 99;
  EXPECT_EQ(f.latched(0), 1);
  EXPECT_EQ(f.status(0) & 0x80, 0);  // low in the last tick
  f.tick += 1;
  EXPECT_EQ(f.latched(0), 100);
  EXPECT_EQ(f.status(0) & 0x80, 0x80);
}

TEST(Pit, mode_2_new_count_comes_in_at_the_end_of_the_period) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 1000);
  f.edge();
  f.tick += 600;
  f.load(kCounter0, 2000);
  EXPECT_EQ(f.status(0) & 0x40, 0x40);  // null count: not yet in the counter
  EXPECT_EQ(f.latched(0), 400);
  EXPECT_EQ(f.due_in(), 400U);
  f.tick += 410;
  EXPECT_EQ(f.latched(0), 1990);
  EXPECT_EQ(f.status(0) & 0x40, 0);
  EXPECT_TRUE(f.edge());  // although the count was read first
  EXPECT_EQ(f.due_in(), 1990U);
}

TEST(Pit, mode_3_is_a_square_wave_counting_by_two) {
  PitFixture f;
  f.control(0x36);
  f.load(kCounter0, 1000);
  f.edge();
  EXPECT_EQ(f.status(0) & 0x80, 0x80);
  f.tick += 100;
  EXPECT_EQ(f.latched(0), 800);
  f.tick += 400;
  EXPECT_EQ(f.status(0) & 0x80, 0);
  EXPECT_EQ(f.latched(0), 1000);
  EXPECT_FALSE(f.edge());
  EXPECT_EQ(f.due_in(), 500U);
  f.tick += 500;
  EXPECT_TRUE(f.edge());
}

TEST(Pit, mode_4_strobes_once) {
  PitFixture f;
  f.control(0x38);
  EXPECT_TRUE(f.edge());
  f.load(kCounter0, 1000);
  EXPECT_EQ(f.due_in(), 1001U);
  f.tick += 1000;
  EXPECT_EQ(f.status(0) & 0x80, 0);
  EXPECT_FALSE(f.edge());
  f.tick += 1;
  EXPECT_TRUE(f.edge());
  EXPECT_EQ(f.due_in(), std::nullopt);
}

TEST(Pit, count_0_is_65536) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 0);
  f.edge();
  EXPECT_EQ(f.due_in(), 65536U);
  EXPECT_EQ(f.latched(0), 0);
  f.tick += 1;
  EXPECT_EQ(f.latched(0), 0xffff);
}

TEST(Pit, bcd_counts_in_decimal) {
  PitFixture f;
  f.control(0x35);
  f.load(kCounter0, 0x1000);
  f.edge();
  EXPECT_EQ(f.due_in(), 1000U);
  f.tick += 1;
  EXPECT_EQ(f.latched(0), 0x0999);
  f.control(0x31);
  f.load(kCounter0, 0);
  EXPECT_EQ(f.due_in(), 10'000U);
}

TEST(Pit, single_byte_access_modes) {
  PitFixture f;
  f.control(0x14);  // low byte, mode 2
  f.pit.write(kCounter0, 250, f.now());
  f.edge();
  EXPECT_EQ(f.due_in(), 250U);
  EXPECT_EQ(f.read(kCounter0), 250);
  EXPECT_EQ(f.read(kCounter0), 250);
  f.control(0x24);  // high byte
  f.pit.write(kCounter0, 2, f.now());
  f.edge();
  EXPECT_EQ(f.due_in(), 512U);
  EXPECT_EQ(f.read(kCounter0), 2);
}

TEST(Pit, latched_count_stays_until_read) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 1000);
  f.tick += 10;
  f.control(0x00);
  f.tick += 10;
  f.control(0x00);  // ignored: the first is not read yet
  f.tick += 10;
  EXPECT_EQ(f.read16(kCounter0), 990);
  EXPECT_EQ(f.read16(kCounter0), 970);
}

TEST(Pit, read_back_latches_status_before_count) {
  PitFixture f;
  f.control(0xb6);
  EXPECT_EQ(f.status(2), 0x80 | 0x40 | 0x36);
  f.load(kCounter2, 0x1234);
  f.control(0xc8);  // status and count of channel 2
  EXPECT_EQ(f.read(kCounter2) & 0x7f, 0x36);
  EXPECT_EQ(f.read16(kCounter2), 0x1234);
}

TEST(Pit, modes_6_and_7_are_2_and_3) {
  PitFixture f;
  f.control(0x3c);
  EXPECT_EQ(f.status(0) & 0x0e, 2 << 1);
  f.control(0x3e);
  EXPECT_EQ(f.status(0) & 0x0e, 3 << 1);
}

TEST(Pit, tiny_period_is_clamped) {
  PitFixture f;
  f.control(0x34);
  f.load(kCounter0, 1);
  f.edge();
  const uint64_t start = f.now();
  EXPECT_GE(*f.pit.next_deadline_ns(), start + kPitMinPeriodNs);
  f.tick += 1000;
  EXPECT_TRUE(f.edge());
  EXPECT_GE(*f.pit.next_deadline_ns(), f.now() + kPitMinPeriodNs);
}

// --- Channel 2 and port 0x61 ---

TEST(PitPort61, channel_2_mode_0_shows_its_output) {
  PitFixture f;
  f.pit.write(kPort61, 0x01, f.now());
  f.control(0xb0);
  f.load(kCounter2, 100);
  EXPECT_FALSE(f.output2());
  f.tick += 100;
  EXPECT_TRUE(f.output2());
  EXPECT_EQ(f.pit.next_deadline_ns(), std::nullopt);
}

TEST(PitPort61, gate_pauses_mode_0) {
  PitFixture f;
  f.pit.write(kPort61, 0x01, f.now());
  f.control(0xb0);
  f.load(kCounter2, 100);
  f.tick += 40;
  f.pit.write(kPort61, 0x00, f.now());
  f.tick += 1000;
  EXPECT_EQ(f.latched(2), 60);
  f.pit.write(kPort61, 0x01, f.now());
  f.tick += 59;
  EXPECT_FALSE(f.output2());
  f.tick += 1;
  EXPECT_TRUE(f.output2());
}

TEST(PitPort61, gate_triggers_mode_1) {
  PitFixture f;
  f.control(0xb2);
  f.load(kCounter2, 100);
  EXPECT_TRUE(f.output2());
  f.pit.write(kPort61, 0x01, f.now());
  EXPECT_FALSE(f.output2());
  f.tick += 50;
  f.pit.write(kPort61, 0x00, f.now());
  f.pit.write(kPort61, 0x01, f.now());  // retriggered
  f.tick += 99;
  EXPECT_FALSE(f.output2());
  f.tick += 1;
  EXPECT_TRUE(f.output2());
}

TEST(PitPort61, gate_restarts_mode_3_and_holds_it_high) {
  PitFixture f;
  f.pit.write(kPort61, 0x01, f.now());
  f.control(0xb6);
  f.load(kCounter2, 100);
  f.tick += 60;
  EXPECT_FALSE(f.output2());
  f.pit.write(kPort61, 0x00, f.now());
  EXPECT_TRUE(f.output2());
  f.tick += 1000;
  f.pit.write(kPort61, 0x01, f.now());
  EXPECT_EQ(f.latched(2), 100);
}

TEST(PitPort61, writable_bits_read_back) {
  PitFixture f;
  f.pit.write(kPort61, 0xff, f.now());
  EXPECT_EQ(f.read(kPort61) & 0xcf, 0x0f);
}

TEST(PitPort61, refresh_bit_toggles) {
  Pit pit;
  pit.reset(0);
  EXPECT_EQ(pit.read(kPort61, 0) & 0x10, 0);
  EXPECT_EQ(pit.read(kPort61, 15'085) & 0x10, 0x10);
  EXPECT_EQ(pit.read(kPort61, 30'170) & 0x10, 0);
}

TEST(Pit, control_port_is_write_only) {
  PitFixture f;
  EXPECT_EQ(f.read(kControl), 0xff);
}

TEST(Pit, restored_timer_goes_on_where_it_was) {
  PitFixture a;
  a.control(0x34);
  a.load(kCounter0, 1000);
  a.edge();
  a.tick += 1300;
  a.edge();
  PitFixture b;
  b.tick = 987'654'321;
  b.pit.restore(a.pit.save(a.now()), b.now());
  EXPECT_EQ(b.latched(0), 700);
  EXPECT_FALSE(b.edge());
  EXPECT_EQ(b.due_in(), 700U);
}

TEST(Pit, absurd_state_is_brought_into_shape) {
  PitState state;
  for (PitChannelState& channel : state.channels) {
    channel.mode = 200;
    channel.count = 0;
    channel.next_count = 0xffff'ffff;
    channel.loaded = true;
    channel.start_tick = ~uint64_t{0};
    channel.switch_tick = ~uint64_t{0};
    channel.access = static_cast<PitAccess>(9);
  }
  state.edges_seen = ~uint64_t{0};
  state.last_edge_ns = ~uint64_t{0};
  PitFixture f;
  f.pit.restore(state, f.now());
  f.edge();
  f.read(kCounter0);
  f.load(kCounter0, 5);
  EXPECT_EQ(f.due_in(), 5U);
}

}  // namespace
}  // namespace trapeze
