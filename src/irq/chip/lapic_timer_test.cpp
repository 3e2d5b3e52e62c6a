#include "irq/chip/lapic_timer.h"

#include <gtest/gtest.h>

#include "irq/chip/lapic_test_support.h"

namespace trapeze {
namespace {

using namespace apic_reg;

constexpr uint8_t kVector = 0xee;
constexpr uint32_t kDivideBy1 = 0xb;
constexpr uint32_t kOneShot = 0;

struct TimerFixture : LapicFixture {
  explicit TimerFixture(uint32_t mode) {
    enable();
    write(kDivide, kDivideBy1);
    write(kLvtTimer, mode | kVector);
  }
  void advance(uint64_t ns) { clock.now_ns += ns; }
  void expire() { lapic.timer_expired(clock.now_ns); }
  bool take() {
    if (lapic.pending_vector() != kVector) return false;
    lapic.accept();
    lapic.mmio_write(kEoi, 0);
    return true;
  }
};

TEST(LapicTimer, one_shot_fires_once_at_its_time) {
  TimerFixture f(kOneShot);
  f.write(kInitialCount, 500'000);
  EXPECT_EQ(f.host.deadline, 1'500'000U);
  EXPECT_EQ(f.read(kCurrentCount), 500'000U);
  f.advance(200'000);
  EXPECT_EQ(f.read(kCurrentCount), 300'000U);
  f.expire();  // early: no harm
  EXPECT_FALSE(f.take());
  f.advance(300'000);
  f.expire();
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_EQ(f.read(kCurrentCount), 0U);
  EXPECT_EQ(f.read(kInitialCount), 500'000U);
  f.advance(10'000'000);
  f.expire();
  EXPECT_FALSE(f.take());
}

TEST(LapicTimer, divide_configuration_slows_it_down) {
  const std::pair<uint32_t, uint64_t> table[] = {{0x0, 2},  {0x1, 4},  {0x2, 8},   {0x3, 16},
                                                 {0x8, 32}, {0x9, 64}, {0xa, 128}, {0xb, 1}};
  for (const auto& [configuration, divisor] : table) {
    TimerFixture f(kOneShot);
    f.write(kDivide, configuration);
    f.write(kInitialCount, 1000);
    EXPECT_EQ(f.host.deadline, 1'000'000 + 1000 * divisor);
  }
}

TEST(LapicTimer, largest_count_does_not_overflow) {
  TimerFixture f(kOneShot);
  f.write(kDivide, 0xa);
  f.write(kInitialCount, 0xffff'ffff);
  EXPECT_EQ(f.host.deadline, 1'000'000 + 128 * uint64_t{0xffff'ffff});
  EXPECT_EQ(f.read(kCurrentCount), 0xffff'ffffU);
}

TEST(LapicTimer, changing_the_divisor_goes_on_from_the_current_count) {
  TimerFixture f(kOneShot);
  f.write(kInitialCount, 1000);
  f.advance(400);
  f.write(kDivide, 0x0);  // by 2
  EXPECT_EQ(f.read(kCurrentCount), 600U);
  EXPECT_EQ(f.host.deadline, 1'000'400U + 1200U);
}

TEST(LapicTimer, periodic_stays_on_its_grid_when_served_late) {
  TimerFixture f(kLvtTimerPeriodic);
  f.write(kInitialCount, 1'000'000);
  f.advance(1'000'300);
  f.expire();
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.host.deadline, 3'000'000U);
  EXPECT_EQ(f.read(kCurrentCount), 999'700U);
  f.advance(5'000'000);
  f.expire();  // five periods late: one interrupt
  EXPECT_TRUE(f.take());
  EXPECT_FALSE(f.take());
  EXPECT_EQ(f.host.deadline, 8'000'000U);
}

TEST(LapicTimer, tiny_period_is_clamped_and_the_count_still_runs) {
  TimerFixture f(kLvtTimerPeriodic);
  f.write(kInitialCount, 3);
  EXPECT_EQ(f.host.deadline, 1'000'000 + kApicMinPeriodNs);
  f.advance(kApicMinPeriodNs);
  f.expire();
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.host.deadline, 1'000'000 + 2 * kApicMinPeriodNs);
  EXPECT_GE(f.read(kCurrentCount), 1U);
  EXPECT_LE(f.read(kCurrentCount), 3U);
}

TEST(LapicTimer, initial_count_0_stops) {
  TimerFixture f(kLvtTimerPeriodic);
  f.write(kInitialCount, 1'000'000);
  f.write(kInitialCount, 0);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_EQ(f.read(kCurrentCount), 0U);
}

TEST(LapicTimer, masked_expiry_is_lost_and_the_count_goes_on) {
  TimerFixture f(kLvtTimerPeriodic | kLvtMasked);
  f.write(kInitialCount, 1'000'000);
  f.advance(1'100'000);
  f.expire();
  EXPECT_FALSE(f.take());
  EXPECT_EQ(f.read(kCurrentCount), 900'000U);
}

TEST(LapicTimer, one_shot_to_periodic_keeps_counting) {
  TimerFixture f(kOneShot);
  f.write(kInitialCount, 1'000'000);
  f.advance(600'000);
  f.write(kLvtTimer, kLvtTimerPeriodic | kVector);
  EXPECT_EQ(f.read(kCurrentCount), 400'000U);
  f.advance(500'000);
  f.expire();
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.read(kCurrentCount), 900'000U);
  f.write(kLvtTimer, kOneShot | kVector);
  EXPECT_EQ(f.read(kCurrentCount), 900'000U);
  f.advance(900'000);
  EXPECT_EQ(f.read(kCurrentCount), 0U);
}

TEST(LapicTimer, counter_that_ran_out_stays_at_0_in_periodic_mode) {
  TimerFixture f(kOneShot);
  f.write(kInitialCount, 1000);
  f.advance(1000);
  f.write(kLvtTimer, kLvtTimerPeriodic | kVector);  // before anybody served the expiry
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.read(kCurrentCount), 0U);
  EXPECT_EQ(f.read(kInitialCount), 1000U);
  EXPECT_EQ(f.host.deadline, std::nullopt);
}

TEST(LapicTimer, reading_0_means_that_the_interrupt_is_pending) {
  TimerFixture f(kOneShot);
  f.write(kInitialCount, 1000);
  f.advance(1000);
  EXPECT_EQ(f.read(kCurrentCount), 0U);
  EXPECT_TRUE(f.take());
}

TEST(LapicTimer, illegal_vector_is_an_error) {
  TimerFixture f(kOneShot);
  f.write(kLvtTimer, 0x04);
  f.write(kInitialCount, 1000);
  f.advance(1000);
  f.expire();
  EXPECT_EQ(f.errors(), kEsrReceiveIllegalVector);
}

TEST(LapicTscDeadline, fires_at_the_guest_tsc_and_disarms) {
  TimerFixture f(kLvtTimerDeadline);
  f.host.tsc_zero_ns = 400;
  f.lapic.set_tsc_deadline(2'000'000);
  EXPECT_EQ(f.host.deadline, 2'000'400U);
  EXPECT_EQ(f.lapic.tsc_deadline(), 2'000'000U);
  f.clock.now_ns = 2'000'400;
  f.expire();
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.lapic.tsc_deadline(), 0U);
  EXPECT_EQ(f.host.deadline, std::nullopt);
}

TEST(LapicTscDeadline, past_deadline_fires_at_once) {
  TimerFixture f(kLvtTimerDeadline);
  f.lapic.set_tsc_deadline(f.clock.now_ns);
  EXPECT_TRUE(f.take());
  EXPECT_EQ(f.lapic.tsc_deadline(), 0U);
}

TEST(LapicTscDeadline, write_of_0_disarms) {
  TimerFixture f(kLvtTimerDeadline);
  f.lapic.set_tsc_deadline(5'000'000);
  f.lapic.set_tsc_deadline(0);
  EXPECT_EQ(f.host.deadline, std::nullopt);
}

TEST(LapicTscDeadline, other_modes_ignore_the_msr) {
  TimerFixture f(kOneShot);
  f.lapic.set_tsc_deadline(5'000'000);
  EXPECT_EQ(f.lapic.tsc_deadline(), 0U);
  EXPECT_EQ(f.host.deadline, std::nullopt);
}

TEST(LapicTscDeadline, initial_count_is_ignored_and_counts_read_0) {
  TimerFixture f(kLvtTimerDeadline);
  f.write(kInitialCount, 1000);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_EQ(f.read(kCurrentCount), 0U);
}

TEST(LapicTscDeadline, mode_change_disarms_both_ways) {
  TimerFixture f(kLvtTimerDeadline);
  f.lapic.set_tsc_deadline(5'000'000);
  f.write(kLvtTimer, kOneShot | kVector);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_EQ(f.lapic.tsc_deadline(), 0U);
  f.write(kInitialCount, 1000);
  f.write(kLvtTimer, kLvtTimerDeadline | kVector);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_EQ(f.read(kInitialCount), 0U);
}

TEST(LapicTscDeadline, tsc_write_moves_an_armed_deadline) {
  TimerFixture f(kLvtTimerDeadline);
  f.lapic.set_tsc_deadline(5'000'000);
  f.host.tsc_zero_ns = 1'000'000;
  f.lapic.tsc_changed();
  EXPECT_EQ(f.host.deadline, 6'000'000U);
}

TEST(LapicTscDeadline, mode_bit_does_not_exist_when_not_offered) {
  LapicFixture f({.id = VcpuId(0), .has_tsc_deadline = false});
  f.enable();
  f.write(kLvtTimer, kLvtTimerDeadline | kVector);
  EXPECT_EQ(f.read(kLvtTimer), kVector);
}

TEST(LapicTimer, reserved_mode_never_fires) {
  TimerFixture f(kLvtTimerDeadline | kLvtTimerPeriodic);
  f.write(kInitialCount, 1000);
  f.lapic.set_tsc_deadline(1);
  EXPECT_EQ(f.host.deadline, std::nullopt);
  EXPECT_FALSE(f.take());
}

}  // namespace
}  // namespace trapeze
