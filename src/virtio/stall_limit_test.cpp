#include "virtio/stall_limit.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

constexpr uint64_t kMs = 1'000'000;

// What StallLimit asks for. A function without a state of its own, so the state is here.
uint64_t sleeps = 0;
uint64_t questions = 0;
uint64_t count_sleeps() {
  ++questions;
  return sleeps;
}

class StallLimitTest : public testing::Test {
 protected:
  void SetUp() override { sleeps = questions = 0; }

  // False when it was not allowed.
  bool work(uint64_t took_ns, bool sleeps_meanwhile) {
    if (!limit.begin(now_ns)) return false;
    now_ns += took_ns;
    if (sleeps_meanwhile) ++sleeps;
    limit.end(now_ns);
    return true;
  }

  StallLimit limit{&count_sleeps};
  uint64_t now_ns = 1000 * kMs;
};

TEST_F(StallLimitTest, ShortWork_IsNeverRefusedAndAsksNothing) {
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(work(kMs / 2, true));
  EXPECT_EQ(questions, 0U);
}

TEST_F(StallLimitTest, StallsInARow_PauseForAHundredTimesAsLong) {
  ASSERT_TRUE(work(3 * kMs, true));
  ASSERT_TRUE(work(3 * kMs, true)) << "nobody has watched the first one";
  EXPECT_FALSE(limit.begin(now_ns));
  now_ns += 300 * kMs - 1;
  EXPECT_FALSE(limit.begin(now_ns));
  now_ns += 1;
  EXPECT_TRUE(work(kMs / 2, false));
}

TEST_F(StallLimitTest, ThreadThatOnlyLostItsCpu_GoesOn) {
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(work(5 * kMs, false));
}

TEST_F(StallLimitTest, SleepThatWasShort_IsNoStall) {
  ASSERT_TRUE(work(3 * kMs, false));
  ASSERT_TRUE(work(kMs / 2, true));
  EXPECT_TRUE(work(kMs / 2, false));
}

TEST_F(StallLimitTest, StallLongAfterTheLast_IsNotWatched) {
  ASSERT_TRUE(work(3 * kMs, true));
  now_ns += 300 * kMs;
  questions = 0;
  ASSERT_TRUE(work(3 * kMs, true));
  EXPECT_EQ(questions, 0U);
  EXPECT_TRUE(limit.begin(now_ns));
}

// The real count, of a thread that sleeps for sure.
TEST(StallLimitThreadTest, SleepOfTheThread_Counts) {
  StallLimit real;
  uint64_t now_ns = 0;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(real.begin(now_ns));
    const timespec nap{.tv_sec = 0, .tv_nsec = 1000};
    ::nanosleep(&nap, nullptr);
    now_ns += 2 * kMs;
    real.end(now_ns);
  }
  EXPECT_FALSE(real.begin(now_ns));
}

}  // namespace
}  // namespace trapeze
