#include "device/pm.h"

namespace trapeze {

using namespace acpi;

uint32_t PowerManagement::host_ticks() const {
  const auto ns = static_cast<unsigned __int128>(clock_.monotonic_ns());
  return static_cast<uint32_t>(ns * kPmTimerHz / 1'000'000'000U);
}

uint32_t PowerManagement::timer() const {
  return host_ticks() + timer_offset_.load(std::memory_order_relaxed);
}

// One reading of the timer for all bytes of an access.
uint64_t PowerManagement::read(uint64_t offset, Width width) {
  const uint32_t now = timer();
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes_of(width); ++i) {
    value |= uint64_t{read_byte(offset + i, now)} << (8 * i);
  }
  return value;
}

uint8_t PowerManagement::read_byte(uint64_t offset, uint32_t timer) const {
  if (offset >= kPmTimerOffset && offset < kPmTimerOffset + 4U) {
    return static_cast<uint8_t>(timer >> (8 * (offset - kPmTimerOffset)));
  }
  // SLP_EN reads 0; sleep status has only WAK_STS, and nothing ever wakes.
  if (offset == kSleepControlOffset) return sleep_control_.load(std::memory_order_relaxed);
  return 0;
}

void PowerManagement::write(uint64_t offset, Width width, uint64_t value) {
  for (unsigned i = 0; i < bytes_of(width); ++i) {
    write_byte(offset + i, static_cast<uint8_t>(value >> (8 * i)));
  }
}

void PowerManagement::write_byte(uint64_t offset, uint8_t value) {
  if (offset == kSleepControlOffset) {
    sleep_control_.store(static_cast<uint8_t>(value & ~kSleepEnable), std::memory_order_relaxed);
    const unsigned type = (value >> kSleepTypeShift) & kSleepTypeMask;
    if ((value & kSleepEnable) != 0 && type == kSleepTypeS5) power_.power_off();
  }
  if (offset == kResetOffset && value == kResetValue) power_.reset();
}

PmState PowerManagement::save() const {
  return {.sleep_control = sleep_control_.load(std::memory_order_relaxed), .timer = timer()};
}

void PowerManagement::restore(const PmState& state) {
  sleep_control_.store(state.sleep_control, std::memory_order_relaxed);
  timer_offset_.store(state.timer - host_ticks(), std::memory_order_relaxed);
}

}  // namespace trapeze
