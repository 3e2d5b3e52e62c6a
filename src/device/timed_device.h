// TimedDevice: a device that wants to be called at a certain time. The VM has one thread for all of
// them: it sleeps until the earliest deadline, or until deadline_changed().
#pragma once

#include <cstdint>
#include <optional>

namespace trapeze {

class TimerHost {
 public:
  virtual ~TimerHost() = default;
  // Some next_deadline_ns() changed. Any thread, with the device's lock held: it may only wake
  // somebody, and take no lock that is held around a call of next_deadline_ns() or run_timers().
  virtual void deadline_changed() = 0;
};

class TimedDevice {
 public:
  virtual ~TimedDevice() = default;
  // In Clock::monotonic_ns. Any thread.
  virtual std::optional<uint64_t> next_deadline_ns() const = 0;
  // Call when the deadline has passed; early calls do no harm. Any thread.
  virtual void run_timers() = 0;
};

}  // namespace trapeze
