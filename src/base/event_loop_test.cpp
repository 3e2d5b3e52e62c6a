#include "base/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>

namespace trapeze {
namespace {

using std::chrono::milliseconds;

struct EventLoopTest : ::testing::Test {
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
};

TEST_F(EventLoopTest, posted_tasks_run_in_order_also_those_left_at_stop) {
  std::string order;
  loop->post([&] { order += "a"; });
  loop->post([&] {
    loop->post([&] { order += "c"; });
    loop->stop();
    order += "b";
  });
  loop->run();
  EXPECT_EQ(order, "abc");
}

TEST_F(EventLoopTest, stop_before_run_ends_it_at_once) {
  loop->stop();
  loop->run();
}

TEST_F(EventLoopTest, call_without_a_running_loop_runs_it_after_what_was_posted) {
  std::string order;
  loop->post([&] { order += "a"; });
  loop->call([&] {
    order += "b";
    EXPECT_TRUE(loop->is_on_loop_thread());
    loop->call([&] { order += "c"; });
  });
  EXPECT_EQ(order, "abc");
  EXPECT_FALSE(loop->is_on_loop_thread());
}

TEST_F(EventLoopTest, readable_fd_calls_its_handler_until_unwatched) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
  const Fd read_end(ends[0]);
  const Fd write_end(ends[1]);
  int calls = 0;
  ASSERT_TRUE(loop->watch(read_end.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_NE(events & EPOLLIN, 0U);
    if (++calls < 3) return;
    loop->unwatch(read_end.get());
    loop->post([&] { loop->stop(); });
  }));
  ASSERT_EQ(::write(write_end.get(), "x", 1), 1);
  loop->run();
  EXPECT_EQ(calls, 3);
}

TEST_F(EventLoopTest, paused_watch_hears_nothing_even_of_a_hang_up) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
  const Fd read_end(ends[0]);
  ::close(ends[1]);
  int calls = 0;
  ASSERT_TRUE(loop->watch(read_end.get(), EPOLLIN, [&](uint32_t) {
    loop->set_events(read_end.get(), 0);
    if (++calls == 2) return loop->stop();
    loop->start_timer(milliseconds(5), [&] {
      EXPECT_EQ(calls, 1);
      loop->set_events(read_end.get(), EPOLLIN);
    });
  }));
  loop->run();
  EXPECT_EQ(calls, 2);
}

TEST_F(EventLoopTest, regular_file_counts_as_always_ready) {
  const Fd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  int calls = 0;
  ASSERT_TRUE(loop->watch(file.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, uint32_t{EPOLLIN});
    if (++calls == 2) loop->set_events(file.get(), 0);
  }));
  ASSERT_TRUE(loop->watch(null.get(), 0, [&](uint32_t) { ADD_FAILURE(); }));
  loop->start_timer(milliseconds(5), [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(calls, 2);
}

TEST_F(EventLoopTest, bad_fd_is_an_error) {
  const auto result = loop->watch(-1, EPOLLIN, [](uint32_t) {});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().os_error, EBADF);
}

TEST_F(EventLoopTest, event_of_an_earlier_watch_does_not_reach_the_next) {
  const Fd first(::eventfd(1, EFD_NONBLOCK));
  const Fd second(::eventfd(1, EFD_NONBLOCK));
  int stale = 0;
  // Both are ready in one batch; whichever handler runs first replaces the other's watch.
  const auto replace = [&](int other) {
    loop->unwatch(first.get());
    loop->unwatch(second.get());
    ASSERT_TRUE(loop->watch(other, EPOLLOUT, [&](uint32_t events) {
      if ((events & EPOLLIN) != 0) ++stale;
      loop->stop();
    }));
  };
  ASSERT_TRUE(loop->watch(first.get(), EPOLLIN, [&](uint32_t) { replace(second.get()); }));
  ASSERT_TRUE(loop->watch(second.get(), EPOLLIN, [&](uint32_t) { replace(first.get()); }));
  loop->run();
  EXPECT_EQ(stale, 0);
}

TEST_F(EventLoopTest, timers_fire_in_order_and_can_be_cancelled) {
  std::string order;
  loop->start_timer(milliseconds(6), [&] {
    order += "c";
    loop->stop();
  });
  loop->start_timer(milliseconds(2), [&] { order += "a"; });
  const auto cancelled = loop->start_timer(milliseconds(3), [&] { order += "x"; });
  loop->start_timer(milliseconds(4), [&] { order += "b"; });
  loop->cancel_timer(cancelled);
  const auto before = std::chrono::steady_clock::now();
  loop->run();
  EXPECT_EQ(order, "abc");
  EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(6));
}

TEST_F(EventLoopTest, timer_that_restarts_itself_leaves_room_for_others) {
  std::function<void()> again = [&] { loop->start_timer(milliseconds(0), again); };
  again();
  loop->start_timer(milliseconds(3), [&] { loop->stop(); });
  loop->run();
}

TEST(EventLoopThreads, calls_and_posts_from_many_threads_all_run) {
  auto thread = std::move(EventLoopThread::create("test-loop")).value();
  EventLoop& loop = thread->loop();
  int count = 0;  // loop thread only
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int n = 0; n < 500; ++n) {
        loop.post([&] { ++count; });
        loop.call([&] { ++count; });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  loop.call([&] { EXPECT_EQ(count, 4000); });
}

TEST(EventLoopThreads, call_never_hangs_while_the_loop_stops_and_starts) {
  auto loop = std::move(EventLoop::create()).value();
  std::atomic<bool> is_over{false};
  int count = 0;
  std::thread runner([&] {
    while (!is_over.load()) loop->run();
  });
  for (int i = 0; i < 2000; ++i) {
    if (i % 3 == 0) loop->stop();
    loop->call([&] { ++count; });
  }
  is_over.store(true);
  loop->stop();
  runner.join();
  EXPECT_EQ(count, 2000);
}

TEST_F(EventLoopTest, turn_is_taken_on_the_callers_thread_while_the_loop_rests) {
  std::thread runner([this] { loop->run(); });
  bool is_done = false;
  // The loop may still be on its way to its rest.
  while (!loop->try_turn([&] { is_done = true; })) std::this_thread::yield();
  EXPECT_TRUE(is_done);
  loop->stop();
  runner.join();
}

TEST_F(EventLoopTest, turn_is_refused_while_a_handler_runs) {
  bool was_taken = true;
  loop->post([&] {
    std::thread other([&] { was_taken = loop->try_turn([] {}); });
    other.join();
    loop->stop();
  });
  loop->run();
  EXPECT_FALSE(was_taken);
}

TEST_F(EventLoopTest, handlers_wait_for_the_turn_of_another_thread_and_come_next) {
  std::thread runner;
  bool is_handled = false;
  ASSERT_TRUE(loop->try_turn([&] {
    loop->post([&] { is_handled = true; });
    runner = std::thread([this] { loop->run(); });
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(is_handled);
    // The loop waits for its turn now: nobody gets in before it.
    std::thread other([this] { EXPECT_FALSE(loop->try_turn([] {})); });
    other.join();
  }));
  loop->call([&] { EXPECT_TRUE(is_handled); });
  loop->stop();
  runner.join();
}

TEST_F(EventLoopTest, timer_that_a_turn_starts_runs_on_the_loop) {
  std::thread runner([this] { loop->run(); });
  std::thread::id ran_on;
  while (!loop->try_turn([&] {
    loop->start_timer(milliseconds(1), [&] {
      ran_on = std::this_thread::get_id();
      loop->stop();
    });
  })) {
    std::this_thread::yield();
  }
  const auto loop_thread = runner.get_id();
  runner.join();
  EXPECT_EQ(ran_on, loop_thread);
}

}  // namespace
}  // namespace trapeze
