#include "irq/chip/lapic_timer.h"

#include <algorithm>

namespace trapeze {

// Bits 3, 1, 0 of the divide configuration: 000 is 2, ..., 110 is 128, 111 is 1 (SDM 3A 11.5.4).
static uint32_t divisor(uint32_t configuration) {
  const uint32_t code = (configuration & 3U) | ((configuration >> 1) & 4U);
  return 1U << ((code + 1U) & 7U);
}

void ApicTimer::arm_counter(uint64_t left_ticks, uint64_t now_ns) {
  zero_at_ns_ = now_ns + left_ticks * divide_;
  counting_ = left_ticks != 0;
  deadline_.reset();
  if (counting_) deadline_ = zero_at_ns_;
  if (counting_ && mode_ == ApicTimerMode::Periodic && period_ns() < kApicMinPeriodNs) {
    deadline_ = std::max(zero_at_ns_, now_ns + kApicMinPeriodNs);
  }
}

void ApicTimer::set_mode(ApicTimerMode mode, uint64_t now_ns) {
  if (mode == mode_) return;
  const bool was_counter = mode_ == ApicTimerMode::OneShot || mode_ == ApicTimerMode::Periodic;
  const bool is_counter = mode == ApicTimerMode::OneShot || mode == ApicTimerMode::Periodic;
  if (!was_counter || !is_counter) {
    // To or from TSC-deadline mode: disarmed (SDM 3A 11.5.4.1).
    stop();
    mode_ = mode;
    return;
  }
  // Between one-shot and periodic the counter goes on from where it is; one that has run out stays.
  const uint32_t left = current_count(now_ns);
  mode_ = mode;
  arm_counter(left, now_ns);
}

void ApicTimer::set_divide(uint32_t divide_configuration, uint64_t now_ns) {
  const uint32_t left = current_count(now_ns);
  divide_ = divisor(divide_configuration);
  if (counting_) arm_counter(left, now_ns);
}

void ApicTimer::set_initial_count(uint32_t count, uint64_t now_ns) {
  // Ignored in TSC-deadline mode (SDM 3A 11.5.4.1).
  if (mode_ == ApicTimerMode::TscDeadline || mode_ == ApicTimerMode::Reserved) return;
  initial_ = count;
  arm_counter(count, now_ns);
}

void ApicTimer::set_counts(uint32_t initial, uint32_t current, uint64_t now_ns) {
  if (mode_ == ApicTimerMode::TscDeadline || mode_ == ApicTimerMode::Reserved) return;
  initial_ = initial;
  arm_counter(std::min(initial, current), now_ns);
}

void ApicTimer::set_deadline(std::optional<uint64_t> deadline_ns) {
  if (mode_ == ApicTimerMode::TscDeadline) deadline_ = deadline_ns;
}

void ApicTimer::stop() {
  initial_ = 0;
  counting_ = false;
  deadline_.reset();
}

uint32_t ApicTimer::current_count(uint64_t now_ns) const {
  if (!counting_) return 0;
  uint64_t left_ns = 0;
  if (now_ns < zero_at_ns_) {
    left_ns = zero_at_ns_ - now_ns;
  } else if (mode_ == ApicTimerMode::Periodic) {
    left_ns = period_ns() - (now_ns - zero_at_ns_) % period_ns();  // counting_: never 0
  }
  // Rounded up: the count starts at its initial value and is 0 exactly at the deadline.
  return static_cast<uint32_t>((left_ns + divide_ - 1) / divide_);
}

bool ApicTimer::expire(uint64_t now_ns) {
  if (!deadline_ || now_ns < *deadline_) return false;
  if (mode_ != ApicTimerMode::Periodic) {
    counting_ = false;
    deadline_.reset();
    return true;
  }
  if (period_ns() < kApicMinPeriodNs) {
    deadline_ = now_ns + kApicMinPeriodNs;
  } else {
    *deadline_ += ((now_ns - *deadline_) / period_ns() + 1) * period_ns();
  }
  return true;
}

}  // namespace trapeze
