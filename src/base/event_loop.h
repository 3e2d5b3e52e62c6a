// EventLoop: file descriptor readiness, timers and posted functions on one thread (epoll).
//
// Threads: post(), call(), try_turn() and stop() from any thread. Everything else on the loop's own
// thread, or while nothing runs the loop. All handlers and tasks run on the thread that is in
// run(); what try_turn() runs counts as one of them.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/thread.h"

namespace trapeze {

class EventLoop {
 public:
  using Task = std::function<void()>;
  // `events` are EPOLL* bits; errors and hang-ups (EPOLLERR, EPOLLHUP) come with them unasked.
  // Calls may be spurious: read and write without blocking.
  using FdHandler = std::function<void(uint32_t events)>;
  enum class TimerId : uint64_t {};

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();

  // Handles events until stop(). Tasks that were posted by then still run before it returns.
  void run();
  // Makes the current run() return, or the next one if none is under way.
  void stop();

  // Runs `task` on the loop's thread, later, in the order of posting.
  void post(Task task);
  // The same, and waits until it is done. On the loop's thread it runs at once. While nothing runs
  // the loop, the caller runs it, after what was posted before: so it can never wait for ever.
  // The loop's handlers must not wait for a lock that a caller of call() holds.
  void call(const Task& task);
  bool is_on_loop_thread() const;
  // Runs `task` at once on the calling thread, as if it were a handler of the loop, while the loop
  // itself rests. False, and nothing ran, when the loop is at work. Never waits; `task` must
  // neither call() nor keep the loop long.
  template <typename Task>
  bool try_turn(Task&& task) {
    // A thread that comes again and again must not keep the loop from its own turn.
    if (is_turn_wanted_.load(std::memory_order_relaxed)) return false;
    const std::unique_lock turn(turn_, std::try_to_lock);
    if (!turn) return false;
    task();
    return true;
  }

  // One watch for one fd, level-triggered unless `events` has EPOLLET. What epoll refuses (regular
  // files, /dev/null) counts as always ready. `fd` must stay open until unwatch().
  Result<void> watch(int fd, uint32_t events, FdHandler handler);
  void set_events(int fd, uint32_t events);  // 0 pauses, hang-ups too; ignored when not watched
  void unwatch(int fd);                      // allowed inside the handler; ignored when not watched

  // One shot, on the monotonic clock.
  TimerId start_timer(std::chrono::nanoseconds delay, Task task);
  void cancel_timer(TimerId timer);  // ignored when it has run

 private:
  struct Watch {
    uint32_t generation = 0;  // tells events of an earlier watch of the same fd number apart
    uint32_t events = 0;
    bool is_always_ready = false;
    bool is_in_epoll = false;
    FdHandler handler;
  };
  using Deadline = std::pair<uint64_t, uint64_t>;  // nanoseconds, timer id

  EventLoop(Fd epoll, Fd wake, Fd timer);
  void wake();
  void handle_events(std::span<const epoll_event> ready);
  void run_posted();
  void release_after_posted();
  void apply_events(int fd, Watch& entry);
  void handle_ready(int fd, uint32_t generation, uint32_t events);
  bool handle_always_ready();
  void arm_timer();
  void run_timers();

  Fd epoll_;
  Fd wake_;
  Fd timer_;
  std::atomic<bool> stop_requested_{false};  // release in stop(), acquire in run()

  std::mutex turn_;                          // held while handlers and tasks run
  std::atomic<bool> is_turn_wanted_{false};  // by the loop; a hint, so relaxed

  // Under turn_.
  std::unordered_map<int, std::shared_ptr<Watch>> watches_;
  std::map<Deadline, Task> timers_;
  uint64_t next_timer_id_ = 1;
  uint64_t armed_ns_ = 0;  // what timer_ is set to; 0 = not armed
  uint32_t next_generation_ = 1;
  uint32_t always_ready_count_ = 0;
  bool is_always_ready_ = false;  // some such watch wants events: no sleep

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // owner_ was released, or a call() is done
  std::thread::id owner_;            // the thread in run(), or in call() while nothing runs
  bool is_owner_in_run_ = false;
  std::vector<Task> posted_;
};

// A loop on a thread of its own, from construction to destruction.
class EventLoopThread {
 public:
  static Result<std::unique_ptr<EventLoopThread>> create(std::string name);
  ~EventLoopThread() { loop_->stop(); }
  EventLoopThread(const EventLoopThread&) = delete;
  EventLoopThread& operator=(const EventLoopThread&) = delete;
  EventLoop& loop() { return *loop_; }

 private:
  EventLoopThread(std::string name, std::unique_ptr<EventLoop> loop)
      : loop_(std::move(loop)), thread_(std::move(name), [this] { loop_->run(); }) {}
  std::unique_ptr<EventLoop> loop_;
  Thread thread_;  // after loop_: joined first
};

}  // namespace trapeze
