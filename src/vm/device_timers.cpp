#include "vm/device_timers.h"

#include <algorithm>
#include <chrono>

namespace trapeze {

DeviceTimers::~DeviceTimers() {
  *self_ = nullptr;
  if (timer_) loop_.cancel_timer(*timer_);
}

void DeviceTimers::deadline_changed() {
  if (rearm_posted_.exchange(true, std::memory_order_acq_rel)) return;
  loop_.post([self = self_] {
    if (*self != nullptr) (*self)->rearm();
  });
}

void DeviceTimers::rearm() {
  // Before the deadlines are read: a change after that posts again.
  rearm_posted_.store(false, std::memory_order_release);
  if (timer_) loop_.cancel_timer(*timer_);
  timer_.reset();
  std::optional<uint64_t> earliest;
  for (const TimedDevice* device : devices_) {
    const auto deadline = device->next_deadline_ns();
    if (deadline && (!earliest || *deadline < *earliest)) earliest = deadline;
  }
  if (!earliest) return;
  const uint64_t now = clock_.monotonic_ns();
  const uint64_t delay = *earliest > now ? *earliest - now : 0;
  // Capped: a guest may ask for a time that signed nanoseconds cannot hold; waking early is
  // allowed.
  constexpr uint64_t kLongestNs = 3600'000'000'000;
  timer_ = loop_.start_timer(std::chrono::nanoseconds(std::min(delay, kLongestNs)), [this] {
    timer_.reset();
    expire();
  });
}

void DeviceTimers::expire() {
  const uint64_t now = clock_.monotonic_ns();
  for (TimedDevice* device : devices_) {
    const auto deadline = device->next_deadline_ns();
    if (deadline && *deadline <= now) device->run_timers();
  }
  rearm();
}

}  // namespace trapeze
