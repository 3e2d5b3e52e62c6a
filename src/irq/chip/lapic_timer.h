// ApicTimer: the timer of one local APIC (SDM 3A 11.5.4), as arithmetic on nanoseconds; it owns no
// thread. The vCPU sleeps until deadline_ns() and then calls expire(). Own-vCPU-thread only.
#pragma once

#include <cstdint>
#include <optional>

namespace trapeze {

// One tick at divide 1 is 1 ns. CPUID leaf 0x15 ECX and leaf 0x40000010 EBX (in kHz) must say so.
inline constexpr uint64_t kApicBusHz = 1'000'000'000;
// A periodic timer fires at most this often, as in KVM: a guest that asks for a period of a few
// ticks would otherwise keep a host core busy with nothing but expiries. The current count register
// still counts as programmed.
inline constexpr uint64_t kApicMinPeriodNs = 200'000;

enum class ApicTimerMode : uint8_t { OneShot = 0, Periodic = 1, TscDeadline = 2, Reserved = 3 };

class ApicTimer {
 public:
  // All `now_ns` are CLOCK_MONOTONIC.
  void set_mode(ApicTimerMode mode, uint64_t now_ns);
  void set_divide(uint32_t divide_configuration, uint64_t now_ns);  // register 0x3e0
  void set_initial_count(uint32_t count, uint64_t now_ns);          // 0 stops
  // For restore: `current` counts left of `initial`; 0 is a timer that has run out.
  void set_counts(uint32_t initial, uint32_t current, uint64_t now_ns);
  void set_deadline(std::optional<uint64_t> deadline_ns);  // only in TscDeadline mode
  void stop();                                             // INIT, reset, APIC off

  ApicTimerMode mode() const { return mode_; }
  uint32_t initial_count() const { return initial_; }
  uint32_t current_count(uint64_t now_ns) const;
  std::optional<uint64_t> deadline_ns() const { return deadline_; }

  // True when the deadline has passed: at most one expiry a call, however many periods were missed.
  // A periodic timer is armed again on the grid of its start, without drift.
  bool expire(uint64_t now_ns);

 private:
  uint64_t period_ns() const { return uint64_t{initial_} * divide_; }
  void arm_counter(uint64_t left_ticks, uint64_t now_ns);

  ApicTimerMode mode_ = ApicTimerMode::OneShot;
  uint32_t divide_ = 2;  // what configuration 0 means
  uint32_t initial_ = 0;
  uint64_t zero_at_ns_ = 0;  // when the counter reaches (reached) 0 the first time
  bool counting_ = false;
  std::optional<uint64_t> deadline_;
};

}  // namespace trapeze
