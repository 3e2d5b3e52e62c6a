// IRET in all modes (SDM 2A "IRET/IRETD/IRETQ").
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/return_frame.h"
#include "accel/soft/system/segments.h"
#include "accel/soft/system/stack.h"
#include "accel/soft/system/task.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft::system {
namespace {

constexpr uint64_t kAlwaysRestored = kArithmeticFlags | kTf | kDf | kNt;
constexpr uint64_t kRestoredFrom32 = kRf | kAc | kId;

// Flags that IRET at the current CPL and IOPL may change.
uint64_t restorable_flags(const Cpu& cpu, unsigned size) {
  uint64_t mask = kAlwaysRestored;
  if (size != 2) mask |= kRestoredFrom32;
  // RF lasts for one instruction and only keeps its breakpoint away: without breakpoints there is
  // nobody to clear it again.
  if (!needs_stepping(cpu)) mask &= ~kRf;
  if (cpu.cpl <= iopl(cpu)) mask |= kIf;
  if (cpu.cpl == 0) {
    mask |= kIopl;
    if (size != 2) mask |= kVif | kVip;
  }
  return mask;
}

bool pop_frame(Cpu& cpu, unsigned size, ReturnFrame& frame, uint64_t& flags) {
  uint64_t cs = 0;
  if (!peek_sized(cpu, size, 0, frame.rip) || !peek_sized(cpu, size, size, cs) ||
      !peek_sized(cpu, size, size * 2U, flags))
    return false;
  frame.cs = static_cast<uint16_t>(cs);
  return true;
}

bool pop_stack_part(Cpu& cpu, unsigned size, ReturnFrame& frame) {
  uint64_t ss = 0;
  if (!peek_sized(cpu, size, size * 3U, frame.rsp) || !peek_sized(cpu, size, size * 4U, ss))
    return false;
  frame.ss = static_cast<uint16_t>(ss);
  return true;
}

Step iret_real(Cpu& cpu, unsigned size) {
  if (is_vm86(cpu) && iopl(cpu) < 3) return raise(cpu, kGP, 0);
  ReturnFrame frame;
  uint64_t flags = 0;
  if (!pop_frame(cpu, size, frame, flags)) return Step::Fault;
  if (!is_within_limit(cpu.seg[kCs], frame.rip, 1)) return raise(cpu, kGP, 0);
  add_to_sp(cpu, size * 3U);
  load_real_segment(cpu, kCs, frame.cs);
  cpu.rip = frame.rip;
  uint64_t mask = kAlwaysRestored | kIf;
  if (size == 4) mask |= kRestoredFrom32;
  if (!is_vm86(cpu)) mask |= kIopl;
  set_rflags(cpu, flags, mask);
  update_mode(cpu);
  return Step::Branch;
}

// Back to virtual-8086 mode, from CPL 0 with a 32-bit operand size.
Step iret_to_vm86(Cpu& cpu, const ReturnFrame& to, uint64_t flags) {
  uint64_t values[6];  // ESP, SS, ES, DS, FS, GS
  for (unsigned i = 0; i < 6; ++i)
    if (!peek_sized(cpu, 4, 12 + 4 * i, values[i])) return Step::Fault;
  if (to.rip > 0xffffU) return raise(cpu, kGP, 0);
  cpu.rip = to.rip;
  constexpr unsigned kOrder[] = {kSs, kEs, kDs, kFs, kGs};
  for (unsigned i = 0; i < 5; ++i)
    cpu.seg[kOrder[i]] = vm86_segment(static_cast<uint16_t>(values[i + 1]));
  cpu.seg[kCs] = vm86_segment(to.cs);
  cpu.gpr[kRsp] = values[0];
  cpu.cpl = 3;
  set_rflags(cpu, flags, kAlwaysRestored | kRestoredFrom32 | kIf | kIopl | kVm | kVif | kVip);
  update_mode(cpu);
  return Step::Branch;
}

Step iret_nested_task(Cpu& cpu, uint64_t return_rip) {
  if (is_long_mode(cpu)) return raise(cpu, kGP, 0);
  uint16_t link = 0;
  if (!read_system(cpu, cpu.tr.base, link)) return Step::Fault;
  TaskSwitch task;
  task.selector = link;
  task.source = TaskSource::Iret;
  task.return_rip = return_rip;
  return switch_task(cpu, task) ? Step::Branch : Step::Fault;
}

Step iret_protected(Cpu& cpu, unsigned size) {
  ReturnFrame frame;
  uint64_t flags = 0;
  if (!pop_frame(cpu, size, frame, flags)) return Step::Fault;
  if ((flags & kVm) != 0 && cpu.cpl == 0 && size == 4 && !is_long_mode(cpu))
    return iret_to_vm86(cpu, frame, flags);
  Descriptor code;
  if (!check_return_code(cpu, frame, code)) return Step::Fault;
  const uint64_t mask = restorable_flags(cpu, size);
  const bool to_outer = selector_rpl(frame.cs) > cpu.cpl;
  // 64-bit mode always has SS:RSP in the frame (SDM 3A 6.14.3).
  if (to_outer || is_code64(cpu)) {
    Segment ss;
    if (!pop_stack_part(cpu, size, frame) || !check_return_stack(cpu, frame, code, ss))
      return Step::Fault;
    enter_return_code(cpu, frame, code);
    enter_return_stack(cpu, ss, frame.rsp);
    if (to_outer) drop_inner_segments(cpu, cpu.cpl);
  } else {
    add_to_sp(cpu, size * 3U);
    enter_return_code(cpu, frame, code);
  }
  set_rflags(cpu, flags, mask);
  update_mode(cpu);
  return Step::Branch;
}

}  // namespace

Step iret(Cpu& cpu, const Insn& insn) {
  if (cpu.nmi_blocked) {
    cpu.nmi_blocked = false;  // also when it faults (SDM 3A 6.7.1)
    if (cpu.env->lapic != nullptr) cpu.env->lapic->nmi_unblocked();
  }
  if (is_real_or_vm86(cpu)) return iret_real(cpu, insn.width);
  if ((cpu.rflags_system & kNt) != 0) return iret_nested_task(cpu, next_rip(cpu, insn));
  return iret_protected(cpu, insn.width);
}

}  // namespace trapeze::soft::system
