#include "backend/net/link_watch.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>

namespace trapeze {
namespace {

bool shell(const char* command) { return std::system(command) == 0; }

// Each test is a process of its own under CTest; the namespace goes with it.
TEST(LinkWatch, tells_of_interfaces_that_come_and_go_and_of_nothing_else) {
  if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    GTEST_SKIP() << "may not make a network namespace";
  }
  if (!shell("ip link show lo > /dev/null")) GTEST_SKIP() << "no ip";
  auto loop = std::move(EventLoop::create()).value();
  const auto turn = [&] {
    loop->start_timer(std::chrono::milliseconds(50), [&] { loop->stop(); });
    loop->run();
  };
  int changes = 0;
  auto watch = LinkWatch::create(*loop, [&] { ++changes; });
  ASSERT_TRUE(watch.has_value()) << watch.error().message;
  turn();
  EXPECT_EQ(changes, 0);
  ASSERT_TRUE(shell("ip link set lo up"));
  turn();
  const int after_one = changes;
  EXPECT_GT(after_one, 0);
  ASSERT_TRUE(shell("ip link set lo down"));
  turn();
  EXPECT_GT(changes, after_one);
  turn();
  const int at_rest = changes;
  watch->reset();
  ASSERT_TRUE(shell("ip link set lo up"));
  turn();
  EXPECT_EQ(changes, at_rest);
}

}  // namespace
}  // namespace trapeze
