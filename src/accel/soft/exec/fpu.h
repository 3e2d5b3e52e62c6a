// What x87, MMX and SSE instructions share: the MXCSR protocol, availability checks, registers.
//
// MXCSR. SSE arithmetic runs as the host's own instruction, so while guest code executes the host's
// MXCSR holds the guest's rounding, DAZ and FTZ bits with all exceptions masked, and collects the
// guest's sticky exception flags. Loading it once per instruction would cost more than most
// instructions do. Therefore
//   - the run loop calls fpu_enter() before and fpu_leave() after executing guest code, on the same
//     thread; whatever runs in between, devices behind IoSink included, must not compute with
//     floats or doubles (integers, memory and vector moves are free), or does so between
//     fpu_leave() and fpu_enter();
//   - in between, the guest's MXCSR is cpu.fpu.mxcsr with the host's flags ORed in: read it by
//     guest_mxcsr(), write it by set_guest_mxcsr(). Outside, cpu.fpu.mxcsr alone is exact.
// A guest that unmasks exceptions takes the careful way (sse_float.h), one instruction at a time.
//
// x87. Nothing of the guest stays in the host's x87 unit between instructions; it is left as the
// ABI wants it (FNINIT state, empty).
#pragma once

#include <emmintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "accel/soft/core/cpu.h"
#include "accel/soft/decode/insn.h"

namespace trapeze::soft {

// MXCSR bits (SDM 1 10.2.3).
inline constexpr uint32_t kMxcsrIe = 1U << 0, kMxcsrDe = 1U << 1, kMxcsrZe = 1U << 2,
                          kMxcsrOe = 1U << 3, kMxcsrUe = 1U << 4, kMxcsrPe = 1U << 5,
                          kMxcsrFlags = 0x3f, kMxcsrMasks = 0x1f80, kMxcsrFtz = 1U << 15,
                          kMxcsrValid = 0xffff, kMxcsrReset = 0x1f80;
// FSW bits (SDM 1 8.1.3).
inline constexpr uint16_t kFswFlags = 0x3f, kFswStackFault = 1U << 6, kFswEs = 1U << 7,
                          kFswTop = 7U << 11, kFswBusy = 1U << 15;
inline constexpr uint16_t kFcwMasks = 0x3f, kFcwReset = 0x37f;

inline uint32_t host_mxcsr() {
  uint32_t value;
  asm volatile("stmxcsr %0" : "=m"(value));
  return value;
}
inline void set_host_mxcsr(uint32_t value) { asm volatile("ldmxcsr %0" : : "m"(value)); }

inline void fpu_enter(Cpu& cpu) { set_host_mxcsr(cpu.fpu.mxcsr | kMxcsrMasks); }
inline void fpu_leave(Cpu& cpu) {
  cpu.fpu.mxcsr |= host_mxcsr() & kMxcsrFlags;
  set_host_mxcsr(kMxcsrReset);
}
inline uint32_t guest_mxcsr(const Cpu& cpu) { return cpu.fpu.mxcsr | (host_mxcsr() & kMxcsrFlags); }
// `value` has no reserved bits set.
inline void set_guest_mxcsr(Cpu& cpu, uint32_t value) {
  cpu.fpu.mxcsr = value;
  set_host_mxcsr(value | kMxcsrMasks);
}

inline unsigned fpu_top(const FpuState& fpu) { return (fpu.fsw >> 11) & 7U; }
inline void set_fpu_top(FpuState& fpu, unsigned top) {
  fpu.fsw = static_cast<uint16_t>((fpu.fsw & ~kFswTop) | ((top & 7U) << 11));
}
// ES and B follow from the exception flags and their masks (SDM 1 8.1.3.3).
inline uint16_t with_summary(uint16_t fsw, uint16_t fcw) {
  const bool pending = (fsw & ~fcw & kFswFlags) != 0;
  return static_cast<uint16_t>((fsw & ~(kFswEs | kFswBusy)) | (pending ? kFswEs | kFswBusy : 0));
}

// What a control word reads back as: bit 6 is always set, bits 7 and 13..15 never.
inline uint16_t valid_fcw(uint16_t fcw) { return static_cast<uint16_t>((fcw & 0x1f3f) | 0x40); }

// FNINIT (SDM 2A). The registers' contents stay.
inline void fpu_init(FpuState& fpu) {
  fpu.fcw = kFcwReset;
  fpu.fsw = 0;
  fpu.empty = 0xff;
  fpu.fop = 0;
  fpu.fip = fpu.fdp = 0;
}

// The FXSAVE image as it stands in memory (SDM 1 10.5.1, table 10-2 and 3A table 13-1), first 416
// bytes: registers in stack order, abridged tags. The pointers' selectors are 0: CPUID says that
// they are not kept.
struct alignas(16) FxImage {
  uint16_t fcw = 0, fsw = 0;
  uint8_t tags = 0, reserved0 = 0;
  uint16_t fop = 0;
  uint32_t fip = 0;
  uint16_t fcs = 0, fip_high = 0;  // 64-bit form: FIP bits 32..47 and 48..63
  uint32_t fdp = 0;
  uint16_t fds = 0, fdp_high = 0;  // same for FDP
  uint32_t mxcsr = 0, mxcsr_mask = kMxcsrValid;
  uint8_t st[8][16] = {};
  uint8_t xmm[16][16] = {};
};
static_assert(sizeof(FxImage) == 416);
inline constexpr unsigned kFxImageSize = 512;  // bytes 416..511 are not touched

// To and from an FXSAVE image of the 64-bit form (`wide`) or of the form with selectors. Used by
// FXSAVE and FXRSTOR and for the canonical state. `mxcsr` is taken as it stands in cpu.fpu.
void fx_save(const FpuState& fpu, FxImage& image, bool wide);
void fx_restore(FpuState& fpu, const FxImage& image, bool wide);
void fx_restore_x87(FpuState& fpu, const FxImage& image, bool wide);  // MXCSR and XMM stay

namespace exec {

inline constexpr uint64_t kCr0Mp = 1U << 1, kCr0Em = 1U << 2, kCr0Ts = 1U << 3, kCr0Ne = 1U << 5;
inline constexpr uint64_t kCr4Osfxsr = 1U << 9, kCr4Osxmmexcpt = 1U << 10;

// SSE to SSE4.2 and AES: SDM 3A table 2-2 and 13.1.
inline bool sse_usable(const Cpu& cpu) {
  return (cpu.cr0 & (kCr0Em | kCr0Ts)) == 0 && (cpu.cr4 & kCr4Osfxsr) != 0;
}
// Raises #UD or #NM and returns Step::Fault; inline, so that the compiler sees that no fast path
// comes back from it.
void raise_sse_unusable(Cpu& cpu);
inline Step sse_unusable(Cpu& cpu) {
  raise_sse_unusable(cpu);
  return Step::Fault;
}

// True with #MF pending when an unmasked x87 exception waits to be reported.
bool x87_pending(Cpu& cpu);
// x87 (SDM 2A, every x87 instruction): false with #NM or #MF pending. `waiting`: the instruction
// first reports a pending unmasked exception.
bool x87_usable(Cpu& cpu, bool waiting);
// MMX: #UD under CR0.EM, #NM under TS, #MF.
bool mmx_usable(Cpu& cpu);
// What every MMX instruction does to the x87 state: TOP = 0, all registers valid (SDM 1 9.5.1).
inline void mmx_transition(Cpu& cpu) {
  set_fpu_top(cpu.fpu, 0);
  cpu.fpu.empty = 0;
}

// bind_vector() leaves XMM operands as byte offsets in FpuState::xmm, so that no handler shifts.
inline uint8_t xmm_slot(unsigned number) { return static_cast<uint8_t>(number * 16); }
inline __m128i* xmm_at(Cpu& cpu, uint8_t slot) {
  return reinterpret_cast<__m128i*>(reinterpret_cast<char*>(cpu.fpu.xmm) + slot);
}
inline __m128i xmm(Cpu& cpu, uint8_t slot) { return _mm_load_si128(xmm_at(cpu, slot)); }
inline void set_xmm(Cpu& cpu, uint8_t slot, __m128i value) {
  _mm_store_si128(xmm_at(cpu, slot), value);
}
// The low sizeof(T) bytes of an XMM register.
template <typename T>
T xmm_low(Cpu& cpu, uint8_t slot) {
  T value;
  std::memcpy(&value, xmm_at(cpu, slot), sizeof(T));
  return value;
}

inline uint64_t mmx(const Cpu& cpu, uint8_t number) {
  uint64_t value;
  std::memcpy(&value, cpu.fpu.st[number & 7U], sizeof(value));
  return value;
}
// A write to MMi sets sign and exponent of the x87 register to ones (SDM 1 9.2.2).
inline void set_mmx(Cpu& cpu, uint8_t number, uint64_t value) {
  uint8_t* st = cpu.fpu.st[number & 7U];
  std::memcpy(st, &value, sizeof(value));
  st[8] = st[9] = 0xff;
}

}  // namespace exec
}  // namespace trapeze::soft
