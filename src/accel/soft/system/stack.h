// Stacks that are not (yet) the current one: event delivery, call gates and task switches push to
// the stack of the level that they go to, and switch only when everything has gone well.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/segment_access.h"

namespace trapeze::soft {

// Accesses below run with the rights of privilege level `cpl` while this lives.
class RightsOf {
 public:
  RightsOf(Cpu& cpu, unsigned cpl) : cpu_(cpu), old_(cpu.cpl) {
    if (cpl == old_) return;
    cpu_.cpl = static_cast<uint8_t>(cpl);
    select_tlb(cpu_);
  }
  ~RightsOf() {
    if (cpu_.cpl == old_) return;
    cpu_.cpl = old_;
    select_tlb(cpu_);
  }
  RightsOf(const RightsOf&) = delete;
  RightsOf& operator=(const RightsOf&) = delete;

 private:
  Cpu& cpu_;
  const uint8_t old_;
};

struct StackFrame {
  Segment ss;
  uint64_t sp = 0;
  uint64_t sp_mask = 0;     // 0xffff, 0xffffffff, or all ones in 64-bit mode
  uint32_t error_code = 0;  // of #SS when a push does not fit

  bool is_flat() const { return sp_mask == ~uint64_t{0}; }
};

// The current stack.
inline StackFrame current_stack(const Cpu& cpu) {
  StackFrame stack{cpu.seg[kSs], cpu.gpr[kRsp], 0xffffU, 0};
  if (is_code64(cpu)) {
    stack.sp_mask = ~uint64_t{0};
  } else if (cpu.stack32) {
    stack.sp_mask = 0xffff'ffffU;
  }
  return stack;
}

// A stack in segment `ss` outside 64-bit mode.
inline StackFrame segment_stack(const Segment& ss, uint64_t sp, uint32_t error_code) {
  return {ss, sp, (ss.access & kSegDb) != 0 ? 0xffff'ffffU : uint64_t{0xffffU}, error_code};
}

template <typename T>
bool push_on(Cpu& cpu, StackFrame& stack, T value) {
  const uint64_t sp = (stack.sp - sizeof(T)) & stack.sp_mask;
  uint64_t linear = sp;
  if (!stack.is_flat()) {
    if (!is_within_limit(stack.ss, sp, sizeof(T))) {
      raise(cpu, kSS, stack.error_code);
      return false;
    }
    linear = (stack.ss.base + sp) & 0xffff'ffffU;
  }
  if (!write_linear<T>(cpu, linear, value, kSs)) return false;
  stack.sp = (stack.sp & ~stack.sp_mask) | sp;
  return true;
}

// Pushes `value` in an operand size of 2, 4 or 8 bytes.
inline bool push_sized(Cpu& cpu, StackFrame& stack, unsigned size, uint64_t value) {
  switch (size) {
    case 2:
      return push_on(cpu, stack, static_cast<uint16_t>(value));
    case 4:
      return push_on(cpu, stack, static_cast<uint32_t>(value));
    default:
      return push_on(cpu, stack, value);
  }
}

// Reads the current stack `offset` bytes above its top.
inline bool peek_sized(Cpu& cpu, unsigned size, uint64_t offset, uint64_t& value) {
  uint16_t word = 0;
  uint32_t dword = 0;
  switch (size) {
    case 2:
      if (!peek(cpu, word, offset)) return false;
      value = word;
      return true;
    case 4:
      if (!peek(cpu, dword, offset)) return false;
      value = dword;
      return true;
    default:
      return peek(cpu, value, offset);
  }
}

// Makes `stack` the current stack's pointer; the segment and the mode are the caller's.
inline void set_stack_pointer(Cpu& cpu, const StackFrame& stack) {
  cpu.gpr[kRsp] = (cpu.gpr[kRsp] & ~stack.sp_mask) | (stack.sp & stack.sp_mask);
}

}  // namespace trapeze::soft
