#include "vm/device_timers.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

using namespace std::chrono_literals;

class FakeDevice final : public TimedDevice {
 public:
  std::optional<uint64_t> next_deadline_ns() const override { return deadline; }
  void run_timers() override {
    ++runs;
    deadline = next;
    next.reset();
  }
  std::optional<uint64_t> deadline;
  std::optional<uint64_t> next;  // after the next run
  int runs = 0;
};

class DeviceTimersTest : public testing::Test {
 protected:
  void run_for(std::chrono::milliseconds time) {
    loop_->start_timer(time, [this] { loop_->stop(); });
    loop_->run();
  }
  const HostClock clock_{};
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
  DeviceTimers timers_{*loop_, clock_};
  FakeDevice first_, second_;
};

TEST_F(DeviceTimersTest, EachDeadline_RunsItsDeviceOnly) {
  timers_.add(first_);
  timers_.add(second_);
  first_.deadline = clock_.monotonic_ns() + 1'000'000;
  second_.deadline = clock_.monotonic_ns() + 3'600'000'000'000;
  timers_.deadline_changed();
  run_for(50ms);
  EXPECT_EQ(first_.runs, 1);
  EXPECT_EQ(second_.runs, 0);
}

TEST_F(DeviceTimersTest, DeviceThatSetsTheNextDeadline_RunsAgain) {
  timers_.add(first_);
  first_.deadline = clock_.monotonic_ns();
  first_.next = clock_.monotonic_ns() + 1'000'000;
  timers_.deadline_changed();
  run_for(50ms);
  EXPECT_EQ(first_.runs, 2);
}

TEST_F(DeviceTimersTest, DeadlineBeyondAllTime_IsNoOverflow) {
  timers_.add(first_);
  first_.deadline = ~uint64_t{0};
  timers_.deadline_changed();
  run_for(5ms);
  EXPECT_EQ(first_.runs, 0);
}

TEST_F(DeviceTimersTest, ChangesPostedBeforeTheEnd_DoNoHarm) {
  {
    DeviceTimers short_lived(*loop_, clock_);
    short_lived.add(first_);
    first_.deadline = clock_.monotonic_ns();
    short_lived.deadline_changed();
  }
  run_for(5ms);
  EXPECT_EQ(first_.runs, 0);
}

}  // namespace
}  // namespace trapeze
