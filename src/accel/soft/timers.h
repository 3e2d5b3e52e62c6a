// TimerThread: calls back when deadlines pass, for vCPUs that are busy running guest code and so do
// not look at the clock themselves.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace trapeze::soft {

class TimerThread {
 public:
  // `expired(slot, now_ns)` is called on the timer's thread, without its lock. A slot has at most
  // one deadline, which is gone when it has expired.
  TimerThread(const Clock& clock, size_t slots, std::function<void(size_t, uint64_t)> expired);
  ~TimerThread();
  TimerThread(const TimerThread&) = delete;
  TimerThread& operator=(const TimerThread&) = delete;

  // Absolute CLOCK_MONOTONIC ns, or none. Any thread.
  void set(size_t slot, std::optional<uint64_t> deadline_ns);
  // No deadline, and no call for this slot is under way when it returns. Not from a callback.
  void retire(size_t slot);

 private:
  void run();
  void run_due(uint64_t now_ns);

  const Clock& clock_;
  const std::function<void(size_t, uint64_t)> expired_;
  std::mutex callback_mutex_;  // held during callbacks; taken before mutex_
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::optional<uint64_t>> deadlines_;
  uint64_t sleeping_until_ = 0;  // 0: awake
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace trapeze::soft
