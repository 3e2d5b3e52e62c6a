#include "base/bulk_mode.h"

#include <gtest/gtest.h>

#include <thread>

namespace trapeze {
namespace {

// On a thread of its own, whose scheduling it changes.
template <typename Body>
void on_a_thread(Body&& body) {
  std::thread thread(body);
  thread.join();
}

TEST(BulkMode, stream_with_short_turns_in_between_is_one) {
  on_a_thread([] {
    BulkMode mode;
    for (int i = 0; i < 20; ++i) {
      mode.note_turn(64 * 1024);
      mode.note_turn(66);
    }
    EXPECT_TRUE(mode.is_on());
    EXPECT_EQ(::sched_getscheduler(0), SCHED_BATCH);
  });
}

TEST(BulkMode, round_trips_are_none_and_end_it) {
  on_a_thread([] {
    BulkMode mode;
    for (int i = 0; i < 1000; ++i) mode.note_turn(i % 10 == 0 ? BulkMode::kBulkBytes : 66);
    EXPECT_FALSE(mode.is_on());
    for (int i = 0; i < 100; ++i) mode.note_turn(BulkMode::kBulkBytes);
    ASSERT_TRUE(mode.is_on());
    for (int i = 0; i < 64; ++i) {
      mode.note_turn(0);  // says nothing
      EXPECT_TRUE(mode.is_on()) << i;
      mode.note_turn(66);
    }
    EXPECT_FALSE(mode.is_on());
    EXPECT_EQ(::sched_getscheduler(0), SCHED_OTHER);
  });
}

}  // namespace
}  // namespace trapeze
