// Data accesses of guest instructions: address formation, segment checks, TLB, memory or MMIO.
//
// Everything returns false with the exception pending in cpu.fault when the access faults; then
// nothing was written. An access that crosses into a page that faults has changed nothing either.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "accel/soft/core/cpu.h"
#include "accel/soft/decode/insn.h"
#include "accel/soft/mmu/tlb.h"

namespace trapeze::soft {

// 16 bytes, for SSE operands and CMPXCHG16B.
struct alignas(16) Bytes16 {
  uint64_t lo, hi;
};

enum class Access : uint8_t { Read, Write, ReadWrite };

// --- registers by operand slot
template <typename T>
inline T reg(const Cpu& cpu, uint8_t slot) {
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(&cpu) + slot, sizeof(T));
  return value;
}
// A 32-bit write clears the upper half, in every mode (harmless outside 64-bit mode).
template <typename T>
inline void set_reg(Cpu& cpu, uint8_t slot, T value) {
  if constexpr (sizeof(T) == 4) {
    const uint64_t wide = static_cast<uint32_t>(value);
    std::memcpy(reinterpret_cast<char*>(&cpu) + slot, &wide, sizeof(wide));
  } else {
    std::memcpy(reinterpret_cast<char*>(&cpu) + slot, &value, sizeof(T));
  }
}

// --- addresses
// Offset part of the memory operand, cut to the address size: what LEA computes.
inline uint64_t effective_address(const Cpu& cpu, const Insn& insn) {
  uint64_t address = reg<uint64_t>(cpu, insn.base) +
                     (reg<uint64_t>(cpu, insn.index) << insn.scale) +
                     static_cast<uint64_t>(static_cast<int64_t>(insn.disp));
  if ((insn.flags & (kAddress32 | kAddress16)) != 0) [[unlikely]] {
    address &= (insn.flags & kAddress32) != 0 ? 0xffff'ffffU : 0xffffU;
  }
  return address;
}

// Linear address of `offset` in segment `seg` with all checks that the mode wants (limit, type,
// null; SDM 3A 5.3 to 5.6); canonical form is checked at translation. #SS for SS, else #GP.
bool segment_to_linear(Cpu& cpu, uint8_t seg, uint64_t offset, uint64_t size, Access access,
                       uint64_t& linear);
bool slow_linear_address(Cpu& cpu, const Insn& insn, uint64_t size, Access access,
                         uint64_t& linear);

// Linear address of the memory operand.
inline bool linear_address(Cpu& cpu, const Insn& insn, uint64_t size, Access access,
                           uint64_t& linear) {
  if ((insn.flags & kSlowAddress) == 0) [[likely]] {
    linear = reg<uint64_t>(cpu, insn.base) + (reg<uint64_t>(cpu, insn.index) << insn.scale) +
             static_cast<uint64_t>(static_cast<int64_t>(insn.disp));
    return true;
  }
  return slow_linear_address(cpu, insn, size, access, linear);
}

// --- accesses by linear address
// `seg` only tells #SS from #GP for a non-canonical address.
bool slow_read(Cpu& cpu, uint64_t linear, void* to, unsigned size, uint8_t seg);
bool slow_write(Cpu& cpu, uint64_t linear, const void* from, unsigned size, uint8_t seg);
// True when the whole range may be written (dirty bits set, MMIO allowed): no fault can follow.
bool probe_write(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg);
// Host address of a writable range within one page of RAM, after dropping code that it held;
// nullptr with a fault pending, or without (MMIO, page crossing: use slow_read and slow_write).
// After the store, wrote_slowly() must follow: the page may hold decoded code.
void* slow_writable(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg);
void wrote_slowly(Cpu& cpu, const void* host, unsigned size);

// One host access of the natural width: atomic when aligned, as x86 promises.
template <typename T>
inline T load_host(const void* from) {
  if constexpr (sizeof(T) <= 8) {
    typedef T Unaligned __attribute__((aligned(1), may_alias));
    return *static_cast<const volatile Unaligned*>(from);
  } else {
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
  }
}
template <typename T>
inline void store_host(void* to, T value) {
  if constexpr (sizeof(T) <= 8) {
    typedef T Unaligned __attribute__((aligned(1), may_alias));
    *static_cast<volatile Unaligned*>(to) = value;
  } else {
    std::memcpy(to, &value, sizeof(T));
  }
}

template <typename T>
inline bool read_linear(Cpu& cpu, uint64_t linear, T& value, uint8_t seg = kDs) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag == tag_of(linear, sizeof(T))) [[likely]] {
    value = load_host<T>(entry.host(linear));
    return true;
  }
  return slow_read(cpu, linear, &value, sizeof(T), seg);
}

template <typename T>
inline bool write_linear(Cpu& cpu, uint64_t linear, T value, uint8_t seg = kDs) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag == tag_of(linear, sizeof(T))) [[likely]] {
    store_host<T>(entry.host(linear), value);
    return true;
  }
  return slow_write(cpu, linear, &value, sizeof(T), seg);
}

// --- the memory operand of an instruction
template <typename T>
inline bool load(Cpu& cpu, const Insn& insn, T& value) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, sizeof(T), Access::Read, linear)) return false;
  return read_linear<T>(cpu, linear, value, insn.seg);
}

template <typename T>
inline bool store(Cpu& cpu, const Insn& insn, T value) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, sizeof(T), Access::Write, linear)) return false;
  return write_linear<T>(cpu, linear, value, insn.seg);
}

void slow_modify_lock(Cpu& cpu);  // takes the VM-wide lock for what no host instruction can do
void slow_modify_unlock(Cpu& cpu);

// Read-modify-write of the memory operand: memory = op(old value). When `op` runs, no fault can
// follow, so it may set registers and flags; with LOCK it may run several times (compare and
// exchange), and only its last run counts.
template <typename T, typename Op>
inline bool modify_linear(Cpu& cpu, uint64_t linear, bool locked, uint8_t seg, Op&& op) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  const bool fast = entry.write_tag == tag_of(linear, sizeof(T));
  void* host = fast ? entry.host(linear) : slow_writable(cpu, linear, sizeof(T), seg);
  if (host != nullptr) [[likely]] {
    typedef T Unaligned __attribute__((aligned(1), may_alias));
    auto* target = static_cast<volatile Unaligned*>(host);
    if (!locked) [[likely]] {
      *target = op(static_cast<T>(*target));
    } else {
      T old = *target;
      for (;;) {
        const T wanted = op(old);
        const T seen = __sync_val_compare_and_swap(target, old, wanted);
        if (seen == old) break;
        old = seen;
      }
    }
    if (!fast) [[unlikely]]
      wrote_slowly(cpu, host, sizeof(T));
    return true;
  }
  if (cpu.fault.pending) return false;
  T old;
  // Only accesses that cross a page or reach MMIO come here; among themselves they are atomic.
  if (!probe_write(cpu, linear, sizeof(T), seg)) return false;
  slow_modify_lock(cpu);
  const bool read_ok = slow_read(cpu, linear, &old, sizeof(T), seg);
  if (read_ok) {
    const T wanted = op(old);
    slow_write(cpu, linear, &wanted, sizeof(T), seg);
  }
  slow_modify_unlock(cpu);
  return read_ok;
}

template <typename T, typename Op>
inline bool modify(Cpu& cpu, const Insn& insn, Op&& op) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, sizeof(T), Access::ReadWrite, linear)) return false;
  return modify_linear<T>(cpu, linear, (insn.flags & kLock) != 0, insn.seg, static_cast<Op&&>(op));
}

// --- accesses of the CPU itself: descriptor tables, TSS, IDT, stacks of event delivery. Always
// with supervisor rights, whatever the CPL ("implicit supervisor-mode access", SDM 3A 4.6.1).
bool read_system(Cpu& cpu, uint64_t linear, void* to, unsigned size);
bool write_system(Cpu& cpu, uint64_t linear, const void* from, unsigned size);
template <typename T>
bool read_system(Cpu& cpu, uint64_t linear, T& value) {
  return read_system(cpu, linear, &value, sizeof(T));
}

// --- the stack, by the current mode: SS checks, SP/ESP/RSP; the register moves only on success.
template <typename T>
inline bool push(Cpu& cpu, T value) {
  if (is_code64(cpu)) [[likely]] {
    const uint64_t rsp = cpu.gpr[kRsp] - sizeof(T);
    if (!write_linear<T>(cpu, rsp, value, kSs)) return false;
    cpu.gpr[kRsp] = rsp;
    return true;
  }
  const uint64_t mask = cpu.stack32 ? 0xffff'ffffU : 0xffffU;
  const uint64_t sp = (cpu.gpr[kRsp] - sizeof(T)) & mask;
  uint64_t linear = 0;
  if (!segment_to_linear(cpu, kSs, sp, sizeof(T), Access::Write, linear)) return false;
  if (!write_linear<T>(cpu, linear, value, kSs)) return false;
  cpu.gpr[kRsp] = (cpu.gpr[kRsp] & ~mask) | sp;
  return true;
}
// Reads the top of the stack without moving it; `offset` in bytes above it.
template <typename T>
inline bool peek(Cpu& cpu, T& value, uint64_t offset = 0) {
  if (is_code64(cpu)) [[likely]]
    return read_linear<T>(cpu, cpu.gpr[kRsp] + offset, value, kSs);
  const uint64_t mask = cpu.stack32 ? 0xffff'ffffU : 0xffffU;
  uint64_t linear = 0;
  if (!segment_to_linear(cpu, kSs, (cpu.gpr[kRsp] + offset) & mask, sizeof(T), Access::Read,
                         linear))
    return false;
  return read_linear<T>(cpu, linear, value, kSs);
}
inline void add_to_sp(Cpu& cpu, uint64_t bytes) {
  if (is_code64(cpu)) [[likely]] {
    cpu.gpr[kRsp] += bytes;
    return;
  }
  const uint64_t mask = cpu.stack32 ? 0xffff'ffffU : 0xffffU;
  cpu.gpr[kRsp] = (cpu.gpr[kRsp] & ~mask) | ((cpu.gpr[kRsp] + bytes) & mask);
}
template <typename T>
inline bool pop(Cpu& cpu, T& value) {
  if (!peek<T>(cpu, value)) return false;
  add_to_sp(cpu, sizeof(T));
  return true;
}

// --- for string instructions: host address of [linear, end of its page) as far as it is RAM that
// the fast path may use at this privilege, else nullptr (then go element by element). No faults.
void* host_for_read(Cpu& cpu, uint64_t linear);
void* host_for_write(Cpu& cpu, uint64_t linear);

// --- ports: permission (IOPL, TSS bitmap) is the caller's business (system/io.cpp)
uint32_t port_read(Cpu& cpu, Port port, Width width);
void port_write(Cpu& cpu, Port port, Width width, uint32_t value);

}  // namespace trapeze::soft
