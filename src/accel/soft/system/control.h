// Control register bits and the rules for changing them (SDM 3A 2.5).
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

inline constexpr uint64_t kCr0Pe = 1U << 0, kCr0Mp = 1U << 1, kCr0Em = 1U << 2, kCr0Ts = 1U << 3,
                          kCr0Et = 1U << 4, kCr0Ne = 1U << 5, kCr0Wp = 1U << 16, kCr0Am = 1U << 18,
                          kCr0Nw = 1U << 29, kCr0Cd = 1U << 30, kCr0Pg = 1U << 31;
inline constexpr uint64_t kCr4Vme = 1U << 0, kCr4Pvi = 1U << 1, kCr4Tsd = 1U << 2, kCr4De = 1U << 3,
                          kCr4Pse = 1U << 4, kCr4Pae = 1U << 5, kCr4Mce = 1U << 6,
                          kCr4Pge = 1U << 7, kCr4Pce = 1U << 8, kCr4Osfxsr = 1U << 9,
                          kCr4Osxmmexcpt = 1U << 10, kCr4Umip = 1U << 11, kCr4La57 = 1U << 12,
                          kCr4Fsgsbase = 1U << 16, kCr4Pcide = 1U << 17, kCr4Osxsave = 1U << 18,
                          kCr4Smep = 1U << 20, kCr4Smap = 1U << 21;

// The bits of CR4 that this CPU model has.
uint64_t offered_cr4(const Cpu& cpu);

// XCR0 (SDM 1 13.3): x87 always, AVX only with SSE, and nothing that the model lacks.
bool is_valid_xcr0(const Cpu& cpu, uint64_t value);

// MOV to CR0, CR3, CR4 behind the privilege check; false with #GP(0) pending, nothing changed.
bool write_cr0(Cpu& cpu, uint64_t value);
bool write_cr3(Cpu& cpu, uint64_t value);
bool write_cr4(Cpu& cpu, uint64_t value);

}  // namespace trapeze::soft
