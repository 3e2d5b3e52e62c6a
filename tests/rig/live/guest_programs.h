// The programs of live_test.cpp: 64-bit code that runs at kCode with all memory mapped one to one,
// one handler for all interrupts, and results in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace trapeze {

// Where the programs leave what they counted.
inline constexpr uint64_t kRounds = 0x10000;  // turns of the loop, counted in memory
inline constexpr uint64_t kTicks = 0x10008;   // interrupts
inline constexpr uint64_t kSum = 0x10010;     // the same turns, in XMM0 as a double
inline constexpr uint64_t kUpper = 0x10020;   // upper half of YMM2, as a program left it
inline constexpr uint64_t kTurns = 0x10040;   // the same turns, in RDI
inline constexpr uint64_t kStop = 0x10048;    // in: not zero ends the loop
inline constexpr uint64_t kPattern = 0x5a5a'1234'5678'a5a5;

extern "C" {
extern const uint8_t count_begin[], count_end[];  // turns of a loop, under a timer, until kStop
extern const uint8_t count_avx_begin[], count_avx_end[];  // the same with a pattern in YMM2
extern const uint8_t apic_handler_begin[], apic_handler_end[];
extern const uint8_t pic_begin[], pic_end[];  // ticks of the 8254 through the 8259s, until kStop
extern const uint8_t pic_handler_begin[], pic_handler_end[];
extern const uint8_t halt_begin[], halt_end[];      // sleeps, interrupts wake it
extern const uint8_t kick_begin[], kick_end[];      // 100 doorbells at 0xe0000000, then reports
extern const uint8_t triple_begin[], triple_end[];  // shuts its CPU down
extern const uint8_t wild_begin[], wild_end[];      // jumps to where no memory is
extern const uint8_t report_handler_begin[], report_handler_end[];
}

inline std::span<const uint8_t> bytes_between(const uint8_t* begin, const uint8_t* end) {
  return {begin, static_cast<size_t>(end - begin)};
}

}  // namespace trapeze
