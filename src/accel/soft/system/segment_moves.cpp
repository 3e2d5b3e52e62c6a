// MOV, PUSH, POP of segment registers; LDS and the like (SDM 2B "MOV", 2A "LDS/LES/LFS/LGS/LSS").
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/segments.h"
#include "accel/soft/system/stack.h"

namespace trapeze::soft::system {
namespace {

// After SS was loaded, interrupts and debug traps wait for one instruction, so that the stack
// pointer can follow (SDM 3A 6.8.3). Data segments may change what other instructions' addresses
// mean only through linear_base, so the block can go on.
Step after_load(Cpu& cpu, unsigned seg) {
  if (seg != kSs) return Step::Next;
  cpu.shadow = 2;
  cpu.attention.fetch_or(kAttnStep, std::memory_order_relaxed);
  return Step::EndBlock;
}

Step load_segment(Cpu& cpu, unsigned seg, uint16_t selector) {
  if (seg == kCs) return raise(cpu, kUD);
  if (!load_data_segment(cpu, seg, selector)) return Step::Fault;
  return after_load(cpu, seg);
}

}  // namespace

Step mov_sreg_from_reg(Cpu& cpu, const Insn& insn) {
  return load_segment(cpu, insn.dst, reg<uint16_t>(cpu, insn.src));
}

Step mov_sreg_from_mem(Cpu& cpu, const Insn& insn) {
  uint16_t selector = 0;
  if (!load(cpu, insn, selector)) return Step::Fault;
  return load_segment(cpu, insn.dst, selector);
}

Step mov_sreg_to_reg(Cpu& cpu, const Insn& insn) {
  const uint16_t selector = cpu.seg[insn.src].selector;
  if (insn.width == 2) {
    set_reg<uint16_t>(cpu, insn.dst, selector);
  } else {
    set_reg<uint64_t>(cpu, insn.dst, selector);
  }
  return Step::Next;
}

Step mov_sreg_to_mem(Cpu& cpu, const Insn& insn) {
  return store(cpu, insn, cpu.seg[insn.src].selector) ? Step::Next : Step::Fault;
}

Step push_sreg(Cpu& cpu, const Insn& insn) {
  StackFrame stack = current_stack(cpu);
  const uint16_t selector = cpu.seg[insn.dst].selector;
  if (insn.width == 4) {
    // Moves the stack by 4 and writes 2, as newer processors do (SDM 2B "PUSH").
    const uint64_t sp = (stack.sp - 4) & stack.sp_mask;
    uint64_t linear = 0;
    if (!segment_to_linear(cpu, kSs, sp, 4, Access::Write, linear)) return Step::Fault;
    if (!write_linear<uint16_t>(cpu, linear, selector, kSs)) return Step::Fault;
    stack.sp = sp;
  } else if (!push_sized(cpu, stack, insn.width, selector)) {
    return Step::Fault;
  }
  set_stack_pointer(cpu, stack);
  return Step::Next;
}

Step pop_sreg(Cpu& cpu, const Insn& insn) {
  uint16_t selector = 0;
  if (!peek(cpu, selector)) return Step::Fault;
  // The old stack's width counts, also when SS itself is popped.
  StackFrame stack = current_stack(cpu);
  stack.sp += insn.width;
  const Step step = load_segment(cpu, insn.dst, selector);
  if (step != Step::Fault) set_stack_pointer(cpu, stack);
  return step;
}

Step load_far(Cpu& cpu, const Insn& insn) {
  uint64_t linear = 0, offset = 0;
  uint16_t selector = 0;
  if (!linear_address(cpu, insn, insn.width + 2U, Access::Read, linear)) return Step::Fault;
  if (!read_offset(cpu, linear, insn.width, insn.seg, offset) ||
      !read_linear(cpu, linear + insn.width, selector, insn.seg))
    return Step::Fault;
  if (!load_data_segment(cpu, insn.aux, selector)) return Step::Fault;
  if (insn.width == 2) {
    set_reg<uint16_t>(cpu, insn.dst, static_cast<uint16_t>(offset));
  } else {
    set_reg<uint64_t>(cpu, insn.dst, offset);
  }
  return insn.aux == kSs ? Step::EndBlock : Step::Next;  // LSS leaves no shadow
}

}  // namespace trapeze::soft::system
