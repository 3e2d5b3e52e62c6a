// Where things lie for the random kernels. The low MiB is mapped as it is; the window is a
// few pages whose rights the kernels change, by one of two sets of page tables.
#pragma once

#include <cstdint>

namespace trapeze::kernel_diff {

inline constexpr uint64_t kPage = 4096;

// Physical. Two address spaces, A and B, that differ in the window only.
inline constexpr uint64_t kPml4A = 0x1000, kPml4B = 0x6000;
inline constexpr uint64_t kLowTable = 0x4000, kWindowTableA = 0x5000, kWindowTableB = 0xc000;
inline constexpr uint64_t kIdt = 0x9000, kTss = 0xa000;
// 16-bit entries: where to go on after an instruction of the code at that offset failed.
inline constexpr uint64_t kSkips = 0x40000;
inline constexpr uint64_t kHandlers = 0xe000;
inline constexpr uint64_t kFaultStackTop = 0x2'2000, kNmiStackTop = 0x2'5000,
                          kInterruptStackTop = 0x2'4000;
// Records of four quadwords for each exception, behind the number of records.
inline constexpr uint64_t kLog = 0x30000;
inline constexpr uint64_t kMaxRecords = 96;
inline constexpr uint64_t kInterrupts = 0x38000;  // how many there were

// The code; user pages, so that it runs in either privilege.
inline constexpr uint64_t kCode = 0x10000;
inline constexpr uint64_t kCodeBytes = 4 * kPage;
inline constexpr uint64_t kCounter = 0x18000;     // for loops; a user page as well
inline constexpr uint64_t kDescriptor = 0x39000;  // INVPCID's; the supervisor's, as page tables are
inline constexpr uint64_t kStackTop = 0x1a000;

inline constexpr uint64_t kWindow = 0x20'0000;
inline constexpr uint64_t kWindowPages = 16;
inline constexpr uint64_t kFrames = 0x80000;      // their first frame
inline constexpr uint64_t kCompared = 0x10'0000;  // all that is mapped

// The low 2 MiB again, as one large page of which the kernels use only what is compared.
inline constexpr uint64_t kAlias = 0x40'0000;
inline constexpr uint64_t kPcidA = 1, kPcidB = 2;

inline constexpr unsigned kEndVector = 0x81, kServiceVector = 0x80, kInterruptVector = 0xf0;

}  // namespace trapeze::kernel_diff
