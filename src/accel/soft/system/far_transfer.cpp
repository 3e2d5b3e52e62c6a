// Far JMP, CALL and RET, with call gates and task gates (SDM 2A, 2B; 3A 5.8).
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/return_frame.h"
#include "accel/soft/system/segments.h"
#include "accel/soft/system/stack.h"
#include "accel/soft/system/task.h"

namespace trapeze::soft::system {
namespace {

struct FarTarget {
  uint16_t selector = 0;
  uint64_t offset = 0;
};

enum class Kind : uint8_t { Jump, Call };

// Pushes the return address of a far CALL on `stack`.
bool push_return(Cpu& cpu, StackFrame& stack, unsigned size, uint64_t return_rip) {
  return push_sized(cpu, stack, size, cpu.seg[kCs].selector) &&
         push_sized(cpu, stack, size, return_rip);
}

Step transfer_real(Cpu& cpu, const Insn& insn, const FarTarget& to, Kind kind) {
  if (!is_within_limit(cpu.seg[kCs], to.offset, 1)) return raise(cpu, kGP, 0);
  if (kind == Kind::Call) {
    StackFrame stack = current_stack(cpu);
    if (!push_return(cpu, stack, insn.width, next_rip(cpu, insn))) return Step::Fault;
    set_stack_pointer(cpu, stack);
  }
  load_real_segment(cpu, kCs, to.selector);
  cpu.rip = to.offset;
  update_mode(cpu);
  return Step::Branch;
}

// True when `rip` may be executed in `code`; #GP(0) otherwise.
bool check_target(Cpu& cpu, const Descriptor& code, uint16_t selector, uint64_t rip) {
  const bool ok = is_long_mode(cpu) && code.is_long_code()
                      ? is_canonical(cpu, rip)
                      : is_within_limit(code.segment(selector), rip, 1);
  return ok || fault(cpu, kGP, 0);
}

void load_code(Cpu& cpu, uint16_t selector, const Descriptor& code, unsigned cpl, uint64_t rip) {
  cpu.seg[kCs] = code.segment(static_cast<uint16_t>((selector & 0xfffcU) | cpl));
  cpu.cpl = static_cast<uint8_t>(cpl);
  cpu.rip = rip;
}

// Straight to a code segment, which never changes the CPL.
Step transfer_to_code(Cpu& cpu, const Insn& insn, const FarTarget& to, Descriptor& code,
                      Kind kind) {
  const uint32_t error = selector_error(to.selector);
  const bool size_ok = !is_long_mode(cpu) || (code.access() & (kSegL | kSegDb)) != (kSegL | kSegDb);
  const bool level_ok = code.is_conforming()
                            ? code.dpl() <= cpu.cpl
                            : selector_rpl(to.selector) <= cpu.cpl && code.dpl() == cpu.cpl;
  if (!size_ok || !level_ok) return raise(cpu, kGP, error);
  if (!code.is_present()) return raise(cpu, kNP, error);
  if (!check_target(cpu, code, to.selector, to.offset)) return Step::Fault;
  if (kind == Kind::Call) {
    StackFrame stack = current_stack(cpu);
    if (!push_return(cpu, stack, insn.width, next_rip(cpu, insn))) return Step::Fault;
    if (!mark_accessed(cpu, to.selector, code)) return Step::Fault;
    set_stack_pointer(cpu, stack);
  } else if (!mark_accessed(cpu, to.selector, code)) {
    return Step::Fault;
  }
  load_code(cpu, to.selector, code, cpu.cpl, to.offset);
  update_mode(cpu);
  return Step::Branch;
}

// The stack of an inner level for a call gate, without what is pushed on it.
bool gate_stack(Cpu& cpu, unsigned new_cpl, StackFrame& stack) {
  if (is_long_mode(cpu)) {
    stack = StackFrame{};
    stack.sp_mask = ~uint64_t{0};
    stack.ss = null_stack_segment(new_cpl);
    return read_tss_stack64(cpu, new_cpl, 0, stack.sp);
  }
  uint16_t ss = 0;
  uint32_t esp = 0;
  Segment segment;
  if (!read_tss_stack(cpu, new_cpl, ss, esp)) return false;
  if (!check_stack_segment(cpu, ss, new_cpl, kTS, segment)) return false;
  stack = segment_stack(segment, esp, selector_error(ss));
  return true;
}

// Copies `count` parameters of `size` bytes from the current stack, the last first.
bool copy_parameters(Cpu& cpu, unsigned new_cpl, StackFrame& stack, unsigned size, unsigned count) {
  uint64_t values[31];
  for (unsigned i = 0; i < count; ++i)
    if (!peek_sized(cpu, size, i * size, values[i])) return false;
  const RightsOf rights(cpu, new_cpl);
  for (unsigned i = count; i-- > 0;)
    if (!push_sized(cpu, stack, size, values[i])) return false;
  return true;
}

struct Gate {
  uint16_t selector = 0;
  uint64_t offset = 0;
  unsigned size = 4;        // of what a call pushes
  unsigned parameters = 0;  // count
};

Step call_inner_level(Cpu& cpu, const Insn& insn, const Gate& gate, Descriptor& code) {
  const unsigned new_cpl = code.dpl();
  StackFrame stack;
  if (!gate_stack(cpu, new_cpl, stack)) return Step::Fault;
  if (!check_target(cpu, code, gate.selector, gate.offset)) return Step::Fault;
  {
    const RightsOf rights(cpu, new_cpl);
    if (!push_sized(cpu, stack, gate.size, cpu.seg[kSs].selector) ||
        !push_sized(cpu, stack, gate.size, cpu.gpr[kRsp]))
      return Step::Fault;
  }
  if (!copy_parameters(cpu, new_cpl, stack, gate.size, gate.parameters)) return Step::Fault;
  {
    const RightsOf rights(cpu, new_cpl);
    if (!push_return(cpu, stack, gate.size, next_rip(cpu, insn))) return Step::Fault;
  }
  if (!mark_accessed(cpu, gate.selector, code)) return Step::Fault;
  cpu.seg[kSs] = stack.ss;
  if (stack.is_flat() || stack.sp_mask == 0xffff'ffffU) {
    cpu.gpr[kRsp] = stack.sp;
  } else {
    set_stack_pointer(cpu, stack);
  }
  load_code(cpu, gate.selector, code, new_cpl, gate.offset);
  update_mode(cpu);
  return Step::Branch;
}

Step enter_same_level(Cpu& cpu, const Insn& insn, const Gate& gate, Descriptor& code, Kind kind) {
  if (!check_target(cpu, code, gate.selector, gate.offset)) return Step::Fault;
  if (kind == Kind::Call) {
    StackFrame stack = current_stack(cpu);
    if (is_long_mode(cpu)) stack.sp_mask = ~uint64_t{0};  // the callee is 64-bit code
    if (!push_return(cpu, stack, gate.size, next_rip(cpu, insn))) return Step::Fault;
    if (!mark_accessed(cpu, gate.selector, code)) return Step::Fault;
    set_stack_pointer(cpu, stack);
  } else if (!mark_accessed(cpu, gate.selector, code)) {
    return Step::Fault;
  }
  load_code(cpu, gate.selector, code, cpu.cpl, gate.offset);
  update_mode(cpu);
  return Step::Branch;
}

// Reads the gate that the far pointer names, with its checks.
bool read_call_gate(Cpu& cpu, const FarTarget& to, const Descriptor& low, Gate& gate) {
  const uint32_t error = selector_error(to.selector);
  Descriptor full = low;
  if (is_long_mode(cpu)) {
    if (!read_system_descriptor(cpu, to.selector, kGP, full)) return false;
    if (((full.high >> 40) & 0x1fU) != 0) return fault(cpu, kGP, error);
    gate.offset = full.gate_offset64();
    gate.size = 8;
  } else {
    const bool is_32 = full.type() == kTypeCallGate32;
    gate.offset = is_32 ? full.gate_offset() : full.gate_offset() & 0xffffU;
    gate.size = is_32 ? 4 : 2;
    gate.parameters = static_cast<unsigned>(full.low >> 32) & 0x1fU;
  }
  if (full.dpl() < cpu.cpl || full.dpl() < selector_rpl(to.selector)) return fault(cpu, kGP, error);
  if (!full.is_present()) return fault(cpu, kNP, error);
  gate.selector = full.gate_selector();
  return true;
}

Step transfer_by_gate(Cpu& cpu, const Insn& insn, const FarTarget& to, const Descriptor& low,
                      Kind kind) {
  Gate gate;
  Descriptor code;
  if (!read_call_gate(cpu, to, low, gate)) return Step::Fault;
  if (is_null_selector(gate.selector)) return raise(cpu, kGP, 0);
  if (!read_descriptor(cpu, gate.selector, kGP, code)) return Step::Fault;
  const uint32_t error = selector_error(gate.selector);
  const bool long_ok = !is_long_mode(cpu) || (code.access() & (kSegL | kSegDb)) == kSegL;
  if (!code.is_code() || !long_ok || code.dpl() > cpu.cpl) return raise(cpu, kGP, error);
  const bool goes_inside = !code.is_conforming() && code.dpl() < cpu.cpl;
  if (goes_inside && kind == Kind::Jump) return raise(cpu, kGP, error);
  if (!code.is_present()) return raise(cpu, kNP, error);
  if (goes_inside) return call_inner_level(cpu, insn, gate, code);
  return enter_same_level(cpu, insn, gate, code, kind);
}

Step transfer_to_task(Cpu& cpu, const Insn& insn, const FarTarget& to, const Descriptor& system,
                      Kind kind) {
  const uint32_t error = selector_error(to.selector);
  if (system.dpl() < cpu.cpl || system.dpl() < selector_rpl(to.selector))
    return raise(cpu, kGP, error);
  if (!system.is_present()) return raise(cpu, kNP, error);
  TaskSwitch task;
  task.selector = system.type() == kTypeTaskGate ? system.gate_selector() : to.selector;
  task.source = kind == Kind::Call ? TaskSource::Call : TaskSource::Jump;
  task.return_rip = next_rip(cpu, insn);
  return switch_task(cpu, task) ? Step::Branch : Step::Fault;
}

Step transfer(Cpu& cpu, const Insn& insn, const FarTarget& to, Kind kind) {
  if (is_real_or_vm86(cpu)) return transfer_real(cpu, insn, to, kind);
  if (is_null_selector(to.selector)) return raise(cpu, kGP, 0);
  Descriptor target;
  if (!read_descriptor(cpu, to.selector, kGP, target)) return Step::Fault;
  if (target.is_code()) return transfer_to_code(cpu, insn, to, target, kind);
  if (target.is_system()) {
    switch (target.type()) {
      case kTypeCallGate32:
        return transfer_by_gate(cpu, insn, to, target, kind);
      case kTypeCallGate16:
        if (is_long_mode(cpu)) break;
        return transfer_by_gate(cpu, insn, to, target, kind);
      case kTypeTaskGate:
      case kTypeTss16:
      case kTypeTss32:
        if (is_long_mode(cpu)) break;
        return transfer_to_task(cpu, insn, to, target, kind);
      default:
        break;
    }
  }
  return raise(cpu, kGP, selector_error(to.selector));
}

// The far pointer in memory: offset of the operand size, then the selector.
bool load_far_pointer(Cpu& cpu, const Insn& insn, FarTarget& to) {
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, insn.width + 2U, Access::Read, linear)) return false;
  if (!read_offset(cpu, linear, insn.width, insn.seg, to.offset)) return false;
  return read_linear<uint16_t>(cpu, linear + insn.width, to.selector, insn.seg);
}

FarTarget immediate_target(const Insn& insn) {
  const auto bits = static_cast<uint64_t>(insn.imm64);
  return {static_cast<uint16_t>(bits >> 32), bits & 0xffff'ffffU};
}

Step retf_real(Cpu& cpu, const Insn& insn, const ReturnFrame& frame, uint64_t release) {
  if (!is_within_limit(cpu.seg[kCs], frame.rip, 1)) return raise(cpu, kGP, 0);
  add_to_sp(cpu, insn.width * 2U + release);
  load_real_segment(cpu, kCs, frame.cs);
  cpu.rip = frame.rip;
  update_mode(cpu);
  return Step::Branch;
}

}  // namespace

bool read_offset(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg, uint64_t& offset) {
  uint16_t word = 0;
  uint32_t dword = 0;
  switch (size) {
    case 2:
      if (!read_linear(cpu, linear, word, seg)) return false;
      offset = word;
      return true;
    case 4:
      if (!read_linear(cpu, linear, dword, seg)) return false;
      offset = dword;
      return true;
    default:
      return read_linear(cpu, linear, offset, seg);
  }
}

Step far_jmp_immediate(Cpu& cpu, const Insn& insn) {
  return transfer(cpu, insn, immediate_target(insn), Kind::Jump);
}
Step far_call_immediate(Cpu& cpu, const Insn& insn) {
  return transfer(cpu, insn, immediate_target(insn), Kind::Call);
}
Step far_jmp_memory(Cpu& cpu, const Insn& insn) {
  FarTarget to;
  return load_far_pointer(cpu, insn, to) ? transfer(cpu, insn, to, Kind::Jump) : Step::Fault;
}
Step far_call_memory(Cpu& cpu, const Insn& insn) {
  FarTarget to;
  return load_far_pointer(cpu, insn, to) ? transfer(cpu, insn, to, Kind::Call) : Step::Fault;
}

Step far_ret(Cpu& cpu, const Insn& insn) {
  const unsigned size = insn.width;
  const uint64_t release = static_cast<uint64_t>(insn.imm64) & 0xffffU;
  ReturnFrame frame;
  uint64_t cs = 0;
  if (!peek_sized(cpu, size, 0, frame.rip) || !peek_sized(cpu, size, size, cs)) return Step::Fault;
  frame.cs = static_cast<uint16_t>(cs);
  if (is_real_or_vm86(cpu)) return retf_real(cpu, insn, frame, release);
  Descriptor code;
  if (!check_return_code(cpu, frame, code)) return Step::Fault;
  if (selector_rpl(frame.cs) == cpu.cpl) {
    add_to_sp(cpu, size * 2U + release);
    enter_return_code(cpu, frame, code);
    update_mode(cpu);
    return Step::Branch;
  }
  uint64_t ss = 0;
  Segment stack;
  if (!peek_sized(cpu, size, size * 2U + release, frame.rsp) ||
      !peek_sized(cpu, size, size * 3U + release, ss))
    return Step::Fault;
  frame.ss = static_cast<uint16_t>(ss);
  if (!check_return_stack(cpu, frame, code, stack)) return Step::Fault;
  enter_return_code(cpu, frame, code);
  enter_return_stack(cpu, stack, frame.rsp);
  drop_inner_segments(cpu, cpu.cpl);
  update_mode(cpu);
  add_to_sp(cpu, release);  // on the outer stack too
  return Step::Branch;
}

}  // namespace trapeze::soft::system
