#include "device/reset_ports.h"

namespace trapeze {

uint8_t SystemControlA::read_byte(uint64_t) { return value_.load(std::memory_order_relaxed); }

void SystemControlA::write_byte(uint64_t, uint8_t value) {
  const uint8_t before = value_.exchange(value, std::memory_order_relaxed);
  if ((value & ~before & kReset) != 0) power_.reset();
}

uint8_t ResetControl::read_byte(uint64_t) { return value_.load(std::memory_order_relaxed); }

void ResetControl::write_byte(uint64_t, uint8_t value) {
  const auto stored = static_cast<uint8_t>(value & (kSystemReset | kResetCpu | kFullReset));
  const uint8_t before = value_.exchange(stored, std::memory_order_relaxed);
  if ((stored & ~before & kResetCpu) != 0) power_.reset();
}

}  // namespace trapeze
