// Guest arithmetic flags, kept the way the host gives them.
//
// Guest and host are the same architecture: an instruction's flags are the host's own flags, taken
// by LAHF and SETO right behind the host instruction. So they are exact, undefined ones included,
// and cost two micro-operations; there is no lazy evaluation to get wrong.
#pragma once

#include <cstdint>

namespace trapeze::soft {

// RFLAGS bits (SDM 1 3.4.3).
inline constexpr uint64_t kCf = 1U << 0, kPf = 1U << 2, kAf = 1U << 4, kZf = 1U << 6, kSf = 1U << 7,
                          kTf = 1U << 8, kIf = 1U << 9, kDf = 1U << 10, kOf = 1U << 11,
                          kIopl = 3U << 12, kNt = 1U << 14, kRf = 1U << 16, kVm = 1U << 17,
                          kAc = 1U << 18, kVif = 1U << 19, kVip = 1U << 20, kId = 1U << 21;
inline constexpr uint64_t kArithmeticFlags = kCf | kPf | kAf | kZf | kSf | kOf;

// Bits 8..15: SF ZF 0 AF 0 PF 1 CF as LAHF gives them; bit 0: OF as SETO gives it.
using ArithmeticFlags = uint16_t;

inline constexpr ArithmeticFlags kArithCf = kCf << 8, kArithPf = kPf << 8, kArithAf = kAf << 8,
                                 kArithZf = kZf << 8, kArithSf = kSf << 8, kArithOf = 1;

constexpr uint64_t to_rflags(ArithmeticFlags flags) {
  return (static_cast<uint64_t>(flags >> 8) & (kCf | kPf | kAf | kZf | kSf)) |
         (static_cast<uint64_t>(flags & 1U) << 11);
}
constexpr ArithmeticFlags to_arithmetic(uint64_t rflags) {
  return static_cast<ArithmeticFlags>(((rflags & (kCf | kPf | kAf | kZf | kSf)) << 8) |
                                      ((rflags >> 11) & 1U));
}

// Condition `cc` (0..15, the low nibble of Jcc/SETcc/CMOVcc) under `flags` (SDM 1 appendix B).
constexpr bool condition_holds(unsigned cc, ArithmeticFlags flags) {
  const bool sf_ne_of = ((flags >> 15) & 1U) != (flags & 1U);
  bool holds = false;
  switch (cc >> 1) {
    case 0:
      holds = (flags & kArithOf) != 0;
      break;
    case 1:
      holds = (flags & kArithCf) != 0;
      break;
    case 2:
      holds = (flags & kArithZf) != 0;
      break;
    case 3:
      holds = (flags & (kArithCf | kArithZf)) != 0;
      break;
    case 4:
      holds = (flags & kArithSf) != 0;
      break;
    case 5:
      holds = (flags & kArithPf) != 0;
      break;
    case 6:
      holds = sf_ne_of;
      break;
    default:
      holds = sf_ne_of || (flags & kArithZf) != 0;
      break;
  }
  return holds != ((cc & 1U) != 0);
}

}  // namespace trapeze::soft
