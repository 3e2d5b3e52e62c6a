// Offsets and bits of the local APIC registers (SDM 3A tables 11-1 and 11-6). The x2APIC MSR of the
// register at `offset` is 0x800 + offset / 16. Private to lapic*.cpp and their tests.
#pragma once

#include <cstdint>

namespace trapeze::apic_reg {

inline constexpr uint32_t kId = 0x020;
inline constexpr uint32_t kVersion = 0x030;
inline constexpr uint32_t kTpr = 0x080;
inline constexpr uint32_t kApr = 0x090;
inline constexpr uint32_t kPpr = 0x0a0;
inline constexpr uint32_t kEoi = 0x0b0;
inline constexpr uint32_t kRemoteRead = 0x0c0;
inline constexpr uint32_t kLdr = 0x0d0;
inline constexpr uint32_t kDfr = 0x0e0;
inline constexpr uint32_t kSpurious = 0x0f0;
inline constexpr uint32_t kIsr = 0x100;  // 8 registers each
inline constexpr uint32_t kTmr = 0x180;
inline constexpr uint32_t kIrr = 0x200;
inline constexpr uint32_t kEsr = 0x280;
inline constexpr uint32_t kIcrLow = 0x300;
inline constexpr uint32_t kIcrHigh = 0x310;
inline constexpr uint32_t kLvtTimer = 0x320;
inline constexpr uint32_t kLvtThermal = 0x330;
inline constexpr uint32_t kLvtPerf = 0x340;
inline constexpr uint32_t kLvtLint0 = 0x350;
inline constexpr uint32_t kLvtLint1 = 0x360;
inline constexpr uint32_t kLvtError = 0x370;
inline constexpr uint32_t kInitialCount = 0x380;
inline constexpr uint32_t kCurrentCount = 0x390;
inline constexpr uint32_t kDivide = 0x3e0;
inline constexpr uint32_t kSelfIpi = 0x3f0;  // x2APIC only

inline constexpr uint32_t kMsrBase = 0x800;

inline constexpr uint32_t kSpuriousEnable = 1U << 8;
inline constexpr uint32_t kSpuriousFocus = 1U << 9;  // no effect since the Pentium 4

inline constexpr uint32_t kLvtVector = 0xff;
inline constexpr uint32_t kLvtModeShift = 8;
inline constexpr uint32_t kLvtMode = 7U << kLvtModeShift;
inline constexpr uint32_t kLvtPending = 1U << 12;  // read-only
inline constexpr uint32_t kLvtPolarity = 1U << 13;
inline constexpr uint32_t kLvtRemoteIrr = 1U << 14;  // read-only
inline constexpr uint32_t kLvtLevel = 1U << 15;
inline constexpr uint32_t kLvtMasked = 1U << 16;
inline constexpr uint32_t kLvtTimerModeShift = 17;
inline constexpr uint32_t kLvtTimerPeriodic = 1U << 17;
inline constexpr uint32_t kLvtTimerDeadline = 1U << 18;

inline constexpr uint32_t kIcrLogical = 1U << 11;
inline constexpr uint32_t kIcrBusy = 1U << 12;  // delivery status; here a send is never pending
inline constexpr uint32_t kIcrAssert = 1U << 14;
inline constexpr uint32_t kIcrLevel = 1U << 15;
inline constexpr uint32_t kIcrShorthandShift = 18;
// Vector, delivery mode, destination mode, level, trigger, shorthand.
inline constexpr uint32_t kIcrWritable = 0x000c'cfff;

inline constexpr uint32_t kEsrSendIllegalVector = 1U << 5;
inline constexpr uint32_t kEsrReceiveIllegalVector = 1U << 6;
inline constexpr uint32_t kEsrIllegalRegister = 1U << 7;

inline constexpr uint8_t kFirstLegalVector = 16;

}  // namespace trapeze::apic_reg
