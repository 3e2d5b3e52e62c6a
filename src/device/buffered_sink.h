// BufferedSink: collects what a UART sends byte by byte, so that the host sees one write a line and
// not one a byte. Passes it on at a newline, when the buffer is full, and 5 ms after the first byte
// (a prompt has no newline). Any thread; the target is called with the lock held.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "base/clock.h"
#include "device/byte_sink.h"
#include "device/timed_device.h"

namespace trapeze {

class BufferedSink final : public ByteSink, public TimedDevice {
 public:
  // All must outlive this. Flushes when destroyed.
  BufferedSink(ByteSink& target, const Clock& clock, TimerHost& timers)
      : target_(target), clock_(clock), timers_(timers) {}
  ~BufferedSink() override { flush(); }

  void write(std::span<const uint8_t> bytes) override;
  void flush();

  std::optional<uint64_t> next_deadline_ns() const override;
  void run_timers() override;

 private:
  static constexpr uint64_t kDelayNs = 5'000'000;

  void flush_locked();

  ByteSink& target_;
  const Clock& clock_;
  TimerHost& timers_;
  mutable std::mutex mutex_;
  std::array<uint8_t, 1024> buffer_;
  size_t used_ = 0;
  uint64_t deadline_ns_ = 0;  // valid while used_ > 0
};

}  // namespace trapeze
