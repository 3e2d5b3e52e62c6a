// One differential test case: code and a start state, and what came of it on either side.
//
// The code runs twice at the same linear addresses, with the same bytes in memory: by the host CPU
// itself in a child process (native.h) and by the interpreter at CPL 3 (guest.h). Every case ends
// in an exception: a HLT behind the code is #GP in user mode on both sides.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace trapeze::diff {

// The linear addresses; nothing else below 2 GiB is mapped in the guest, and nothing near them in
// the child process. Low, so that 32-bit addressing and immediates reach them.
inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kCodePage = 0x2000'0000;        // one page, read and execute
inline constexpr uint64_t kData = 0x2001'0000;            // two pages, read and write, then
inline constexpr uint64_t kReadOnly = kData + 2 * kPage;  // one page read-only, then nothing
inline constexpr uint64_t kStack = 0x2002'0000;           // one page, read and write
inline constexpr uint64_t kGsBase = 0x2000'8000;
inline constexpr uint64_t kChangingBytes = 3 * kPage;  // data and stack, as results hold them
inline constexpr uint8_t kHltOpcode = 0xf4;            // fills the code page around the code

// Offsets in an FXSAVE image (SDM 1 10.5.1).
inline constexpr size_t kFxFcw = 0, kFxFsw = 2, kFxTags = 4, kFxMxcsr = 24, kFxSt = 32,
                        kFxXmm = 160, kFxBytes = 512, kFxUsed = 416;
inline constexpr size_t kYmmBytes = 256;  // the upper halves of YMM0 to YMM15

struct Registers {
  std::array<uint64_t, 16> gpr{};  // in encoding order
  uint64_t rip = 0;
  uint64_t rflags = 0x202;
  alignas(16) std::array<uint8_t, kFxBytes> fx{};
  std::array<uint8_t, kYmmBytes> ymm_high{};  // without AVX on the host: all 0
};

inline constexpr size_t kMaxCode = 512;

struct Case {
  Registers start;          // rip: where the code lies in the code page
  uint32_t background = 0;  // which of the backgrounds the memory starts with
  uint32_t code_bytes = 0;  // cut where the code page ends
  std::array<uint8_t, kMaxCode> code{};
};

struct Outcome {
  Registers end;
  uint32_t vector = 0;
  uint32_t error_code = 0;
  uint64_t cr2 = 0;  // for #PF
  std::array<uint8_t, kChangingBytes> memory{};
};

// What data, the read-only page and the stack hold before a case.
struct Background {
  std::array<uint8_t, kChangingBytes> changing{};
  std::array<uint8_t, kPage> read_only{};  // the same in all backgrounds
};
inline constexpr size_t kBackgrounds = 8;
using Backgrounds = std::array<Background, kBackgrounds>;

inline constexpr uint8_t kVectorGp = 13, kVectorPf = 14, kVectorXm = 19;
inline constexpr uint32_t kNoVector = 0xffff'ffff;  // it did not end, or not by an exception

}  // namespace trapeze::diff
