// The power management ports, as the FADT announces them and device/pm.h answers them. All lie at
// layout::kPowerManagement (ACPI 6.4 §4.8.3.7, §4.8.3.6, §4.8.3.3).
#pragma once

#include <cstdint>

#include "arch/x86/layout.h"

namespace trapeze::acpi {

inline constexpr uint16_t kPmPorts = 16;

// Offsets within the block.
inline constexpr uint16_t kSleepControlOffset = 0;
inline constexpr uint16_t kSleepStatusOffset = 1;
inline constexpr uint16_t kResetOffset = 2;
inline constexpr uint16_t kPmTimerOffset = 8;  // 32 bits

inline constexpr uint8_t kResetValue = 1;
inline constexpr uint8_t kSleepTypeS5 = 5;
inline constexpr uint8_t kSleepTypeShift = 2;
inline constexpr uint8_t kSleepTypeMask = 7;
inline constexpr uint8_t kSleepEnable = 1U << 5;

inline constexpr uint64_t kPmTimerHz = 3'579'545;

constexpr uint16_t pm_port(uint16_t offset) {
  return static_cast<uint16_t>(layout::kPowerManagement.raw() + offset);
}

}  // namespace trapeze::acpi
