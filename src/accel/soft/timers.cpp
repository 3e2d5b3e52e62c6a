#include "accel/soft/timers.h"

#include <algorithm>
#include <chrono>

namespace trapeze::soft {
namespace {
constexpr uint64_t kNever = ~uint64_t{0};
}  // namespace

TimerThread::TimerThread(const Clock& clock, size_t slots,
                         std::function<void(size_t, uint64_t)> expired)
    : clock_(clock), expired_(std::move(expired)), deadlines_(slots), thread_([this] { run(); }) {}

TimerThread::~TimerThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void TimerThread::set(size_t slot, std::optional<uint64_t> deadline_ns) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    deadlines_[slot] = deadline_ns;
    // Later deadlines need no wake-up: the thread finds them when it next looks.
    wake = deadline_ns.has_value() && sleeping_until_ != 0 && *deadline_ns < sleeping_until_;
  }
  if (wake) changed_.notify_one();
}

void TimerThread::retire(size_t slot) {
  const std::lock_guard no_callback(callback_mutex_);
  const std::lock_guard lock(mutex_);
  deadlines_[slot].reset();
}

// Takes each deadline again under both locks, so that a slot retired meanwhile is not called.
void TimerThread::run_due(uint64_t now_ns) {
  const std::lock_guard callbacks(callback_mutex_);
  for (size_t slot = 0; slot < deadlines_.size(); ++slot) {
    {
      const std::lock_guard lock(mutex_);
      if (!deadlines_[slot] || *deadlines_[slot] > now_ns) continue;
      deadlines_[slot].reset();
    }
    expired_(slot, now_ns);
  }
}

void TimerThread::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const uint64_t now = clock_.monotonic_ns();
    uint64_t next = kNever;
    for (const auto& deadline : deadlines_) {
      if (deadline) next = std::min(next, *deadline);
    }
    if (next <= now) {
      lock.unlock();
      run_due(now);
      lock.lock();
      continue;
    }
    sleeping_until_ = next;
    if (next == kNever) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, std::chrono::nanoseconds(next - now));
    }
    sleeping_until_ = 0;
  }
}

}  // namespace trapeze::soft
