#include "device/rtc.h"

#include <gtest/gtest.h>

#include <array>

#include "base/units.h"
#include "device/fakes.h"

namespace trapeze {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMillisecond = 1'000'000;
// Thursday 2024-02-29, 23:59:57 UTC.
constexpr uint64_t kLeapDayEnd = 1'709'251'197;
constexpr uint32_t kGsi = 8;
constexpr std::array<uint8_t, 8> kTimeRegisters{0, 2, 4, 6, 7, 8, 9, 0x32};

FakeClock clock_at(uint64_t realtime_s) {
  FakeClock clock;
  clock.realtime_base_ns = realtime_s * kSecond;
  return clock;
}

class RtcTest : public testing::Test {
 protected:
  uint8_t get(uint8_t index) {
    rtc_.write(0, Width::Byte, index);
    return static_cast<uint8_t>(rtc_.read(1, Width::Byte));
  }
  void set(uint8_t index, uint8_t value) {
    rtc_.write(0, Width::Byte, index);
    rtc_.write(1, Width::Byte, value);
  }
  void set_time(uint8_t hour, uint8_t minute, uint8_t second) {
    set(4, hour);
    set(2, minute);
    set(0, second);
  }
  bool irq() { return interrupts_.levels[kGsi]; }
  // What the timer thread does, up to `ns` from now.
  void sleep(uint64_t ns) {
    const uint64_t end = clock_.now_ns + ns;
    while (rtc_.next_deadline_ns().value_or(end + 1) <= end) {
      clock_.now_ns = std::max(clock_.now_ns, *rtc_.next_deadline_ns());
      rtc_.run_timers();
    }
    clock_.now_ns = end;
  }

  FakeClock clock_ = clock_at(kLeapDayEnd);
  FakeWires interrupts_;
  FakeTimers timers_;
  Rtc rtc_{
      {.ram_size_bytes = 6 * GiB, .vcpus = 4}, clock_, IrqLine(interrupts_, Gsi{kGsi}), timers_};
};

TEST_F(RtcTest, time_is_bcd_and_24_hours_at_start) {
  EXPECT_EQ(get(0x00), 0x57);
  EXPECT_EQ(get(0x02), 0x59);
  EXPECT_EQ(get(0x04), 0x23);
  EXPECT_EQ(get(0x06), 5);  // Thursday, Sunday is 1
  EXPECT_EQ(get(0x07), 0x29);
  EXPECT_EQ(get(0x08), 0x02);
  EXPECT_EQ(get(0x09), 0x24);
  EXPECT_EQ(get(0x32), 0x20);
  EXPECT_EQ(get(0x0d), 0x80);
  clock_.now_ns += 3 * kSecond;
  EXPECT_EQ(get(0x00), 0x00);
  EXPECT_EQ(get(0x04), 0x00);
  EXPECT_EQ(get(0x07), 0x01);
  EXPECT_EQ(get(0x08), 0x03);
}

TEST_F(RtcTest, binary_and_12_hour_modes) {
  set(0x0b, 0x04);
  EXPECT_EQ(get(0x00), 57);
  EXPECT_EQ(get(0x04), 0x80 | 11);  // 11 p.m.
  clock_.now_ns += 3 * kSecond;
  EXPECT_EQ(get(0x04), 12);  // midnight
  set(0x0b, 0x00);
  EXPECT_EQ(get(0x04), 0x12);
}

TEST_F(RtcTest, update_in_progress_shows_just_before_the_second) {
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  clock_.now_ns += kSecond - 100'000;
  EXPECT_EQ(get(0x0a) & 0x80, 0x80);
  clock_.now_ns += 100'000;
  EXPECT_EQ(get(0x0a) & 0x80, 0);
  set(0x0b, 0x82);
  clock_.now_ns += kSecond - 100'000;
  EXPECT_EQ(get(0x0a) & 0x80, 0);  // nothing updates while SET holds the clock
}

// As Linux' mc146818_set_time() does it: SET, divider reset, values, and back.
TEST_F(RtcTest, guest_sets_the_time) {
  const uint8_t control = get(0x0b);
  const uint8_t rate = get(0x0a);
  set(0x0b, static_cast<uint8_t>(control | 0x80));
  set(0x0a, static_cast<uint8_t>(rate | 0x70));
  set_time(0x12, 0x34, 0x56);
  set(0x07, 0x31);
  set(0x08, 0x12);
  set(0x09, 0x99);
  set(0x32, 0x19);
  clock_.now_ns += 5 * kSecond;
  EXPECT_EQ(get(0x00), 0x56);
  set(0x0b, control);
  set(0x0a, rate);
  clock_.now_ns += 4 * kSecond;
  EXPECT_EQ(get(0x00), 0x00);
  EXPECT_EQ(get(0x02), 0x35);
  EXPECT_EQ(get(0x09), 0x99);
  EXPECT_EQ(get(0x32), 0x19);
}

TEST_F(RtcTest, any_byte_may_be_written_as_time) {
  for (const int mode : {0x02, 0x06, 0x00, 0x04}) {
    set(0x0b, static_cast<uint8_t>(mode));
    for (const uint8_t value : std::array<uint8_t, 3>{0xff, 0x00, 0x80}) {
      for (const uint8_t index : kTimeRegisters) set(index, value);
      for (const uint8_t index : kTimeRegisters) get(index);
      clock_.now_ns += kSecond;
      get(0x0c);
    }
  }
  EXPECT_LE(rtc_.save().offset_ns, int64_t{6'000'000'000} * 1'000'000'000);
}

TEST_F(RtcTest, update_interrupt_comes_once_a_second) {
  set(0x0b, 0x12);
  sleep(kSecond / 2);
  EXPECT_FALSE(irq());
  sleep(kSecond / 2);
  EXPECT_TRUE(irq());
  EXPECT_FALSE(rtc_.next_deadline_ns().has_value());  // waits for the guest to read C
  sleep(5 * kSecond);
  EXPECT_EQ(interrupts_.edges, 1U);
  EXPECT_EQ(get(0x0c) & 0x90, 0x90);
  EXPECT_FALSE(irq());
  EXPECT_EQ(get(0x0c), 0x00);
  sleep(kSecond);
  EXPECT_EQ(interrupts_.edges, 2U);
}

TEST_F(RtcTest, alarm_interrupts_at_its_time_of_day) {
  set(0x01, 0x05);
  set(0x03, 0x01);
  set(0x05, 0x00);
  set(0x0b, 0x22);
  EXPECT_EQ(rtc_.next_deadline_ns(), 68 * kSecond);  // from 23:59:57 to 00:01:05
  sleep(67 * kSecond);
  EXPECT_FALSE(irq());
  sleep(kSecond);
  EXPECT_TRUE(irq());
  EXPECT_EQ(get(0x0c) & 0xb0, 0xb0);
  EXPECT_EQ(rtc_.next_deadline_ns(), 68 * kSecond + 86'400 * kSecond);
}

TEST_F(RtcTest, alarm_with_dont_care_bytes_repeats) {
  set(0x01, 0x00);
  set(0x03, 0xff);
  set(0x05, 0xc0);
  set(0x0b, 0x22);
  sleep(3 * kSecond);
  EXPECT_EQ(get(0x0c) & 0x20, 0x20);
  sleep(59 * kSecond);
  EXPECT_EQ(get(0x0c) & 0x20, 0);
  sleep(kSecond);
  EXPECT_EQ(get(0x0c) & 0x20, 0x20);
}

TEST_F(RtcTest, alarm_that_never_matches_has_no_deadline) {
  set(0x01, 0x77);
  set(0x0b, 0x22);
  EXPECT_FALSE(rtc_.next_deadline_ns().has_value());
  sleep(100'000 * kSecond);
  EXPECT_EQ(get(0x0c) & 0x20, 0);
}

TEST_F(RtcTest, periodic_interrupt_runs_at_the_selected_rate) {
  set(0x0a, 0x26);  // 1024 Hz
  set(0x0b, 0x42);
  for (int i = 0; i < 100; ++i) {
    sleep(kSecond / 1024 + 1);
    EXPECT_EQ(get(0x0c) & 0xc0, 0xc0);
  }
  EXPECT_EQ(interrupts_.edges, 100U);
  set(0x0a, 0x20);  // rate 0: off
  EXPECT_FALSE(rtc_.next_deadline_ns().has_value());
}

TEST_F(RtcTest, flags_can_be_polled_without_interrupts) {
  set(0x0a, 0x2f);  // 2 Hz
  get(0x0c);
  clock_.now_ns += 100 * kMillisecond;
  EXPECT_EQ(get(0x0c), 0x00);
  clock_.now_ns += 500 * kMillisecond;
  EXPECT_EQ(get(0x0c), 0x40);
  clock_.now_ns += 500 * kMillisecond;
  EXPECT_EQ(get(0x0c), 0x50);
  EXPECT_EQ(interrupts_.calls, 0U);
}

TEST_F(RtcTest, timer_thread_is_told_when_the_deadline_changes) {
  const unsigned before = timers_.changes;
  set(0x0b, 0x12);
  EXPECT_EQ(timers_.changes, before + 1);
  get(0x00);
  EXPECT_EQ(timers_.changes, before + 1);
}

TEST_F(RtcTest, memory_size_is_where_boot_code_looks) {
  EXPECT_EQ(get(0x15) | get(0x16) << 8, 640);
  EXPECT_EQ(get(0x30) | get(0x31) << 8, 0xffff);
  EXPECT_EQ(get(0x34) | get(0x35) << 8, static_cast<int>((3 * GiB - 16 * MiB) / (64 * KiB)));
  EXPECT_EQ(get(0x5b) | get(0x5c) << 8 | get(0x5d) << 16, static_cast<int>(3 * GiB / (64 * KiB)));
  EXPECT_EQ(get(0x5f), 3);
}

TEST_F(RtcTest, plain_bytes_are_kept_and_the_nmi_mask_reads_back) {
  set(0x0f, 0x0a);
  EXPECT_EQ(get(0x0f), 0x0a);
  rtc_.write(0, Width::Byte, 0x8f);
  EXPECT_EQ(rtc_.read(0, Width::Byte), 0x8fU);
  EXPECT_EQ(rtc_.read(1, Width::Byte), 0x0aU);
  rtc_.write(0, Width::Word, 0x550f);
  EXPECT_EQ(get(0x0f), 0x55);
}

TEST_F(RtcTest, plain_bytes_leave_the_clocks_events_alone) {
  set(0x0b, 0x42);  // periodic, 1024 Hz
  clock_.now_ns += kSecond;
  set(0x28, 0xd9);
  const bool has_flag = (rtc_.save().cmos[0x0c] & 0x40) != 0;
  EXPECT_EQ(has_flag, irq());
  rtc_.run_timers();
  EXPECT_TRUE(irq());
}

TEST_F(RtcTest, restored_clock_keeps_the_guests_time) {
  set_time(0x10, 0x00, 0x00);
  FakeClock later;
  later.realtime_base_ns = clock_.realtime_base_ns + 10 * kSecond;
  Rtc other({}, later, IrqLine(), timers_);
  other.restore(rtc_.save());
  other.write(0, Width::Byte, 0x04);
  EXPECT_EQ(other.read(1, Width::Byte), 0x10U);
  other.write(0, Width::Byte, 0x00);
  EXPECT_EQ(other.read(1, Width::Byte), 0x10U);
  RtcState damaged = rtc_.save();
  damaged.offset_ns = INT64_MIN;
  damaged.index = 0xff;
  other.restore(damaged);
  other.read(1, Width::Byte);
  EXPECT_EQ(other.save().index, 0x7f);
}

}  // namespace
}  // namespace trapeze
