// Clock: time as a parameter, so that devices with timers can be tested without waiting.
#pragma once

#include <cstdint>
#include <ctime>

namespace trapeze {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds that never go back (CLOCK_MONOTONIC). Any thread.
  virtual uint64_t monotonic_ns() const = 0;
  // Nanoseconds since 1970-01-01 UTC (CLOCK_REALTIME). Any thread.
  virtual uint64_t realtime_ns() const = 0;
};

class HostClock final : public Clock {
 public:
  uint64_t monotonic_ns() const override { return read(CLOCK_MONOTONIC); }
  uint64_t realtime_ns() const override { return read(CLOCK_REALTIME); }

 private:
  static uint64_t read(clockid_t id) {
    timespec now{};
    ::clock_gettime(id, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
  }
};

// A clock that tests move by hand. Not thread-safe.
class FakeClock final : public Clock {
 public:
  uint64_t monotonic_ns() const override { return now_ns; }
  uint64_t realtime_ns() const override { return realtime_base_ns + now_ns; }
  uint64_t now_ns = 0;
  uint64_t realtime_base_ns = 0;
};

}  // namespace trapeze
