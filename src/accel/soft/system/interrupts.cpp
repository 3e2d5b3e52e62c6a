// INT and the flags that interrupts live by.
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/event_delivery.h"
#include "accel/soft/system/events.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/stack.h"

namespace trapeze::soft::system {

Step int_n(Cpu& cpu, const Insn& insn) {
  if (is_protected(cpu) && is_vm86(cpu) && iopl(cpu) < 3) return raise(cpu, kGP, 0);
  return software_interrupt(cpu, static_cast<uint8_t>(insn.imm64), next_rip(cpu, insn));
}

Step int3(Cpu& cpu, const Insn& insn) { return software_interrupt(cpu, kBP, next_rip(cpu, insn)); }

// INT1 delivers #DB without a privilege check, and without a reason of its own in DR6. It is the
// one #DB behind this instruction: no single-step trap follows, and data breakpoints that a MOV SS
// in front held back are told of in DR6 instead of by a second exception.
Step int1(Cpu& cpu, const Insn& insn) {
  Event event;
  event.vector = kDB;
  event.source = EventSource::Exception;
  event.return_rip = next_rip(cpu, insn);
  if (deliver_event(cpu, event)) {
    cpu.dr6 |= cpu.single_step_dr6;
    cpu.single_step_dr6 = 0;
    cpu.stepping = false;
    return Step::Branch;
  }
  if (cpu.fault.has_error_code && cpu.fault.vector != kPF) cpu.fault.error_code |= 1;  // EXT
  return Step::Fault;
}

Step into(Cpu& cpu, const Insn& insn) {
  if ((cpu.arith & kArithOf) == 0) return Step::Next;
  return software_interrupt(cpu, kOF, next_rip(cpu, insn));
}

Step cli(Cpu& cpu, const Insn&) {
  if (is_protected(cpu) && cpu.cpl > iopl(cpu)) return raise(cpu, kGP, 0);
  cpu.rflags_system &= ~kIf;
  return Step::Next;
}

Step sti(Cpu& cpu, const Insn&) {
  if (is_protected(cpu) && cpu.cpl > iopl(cpu)) return raise(cpu, kGP, 0);
  if ((cpu.rflags_system & kIf) != 0) return Step::Next;
  set_rflags(cpu, kIf, kIf);
  cpu.shadow = 1;  // interrupts wait for one more instruction (SDM 2B "STI")
  cpu.attention.fetch_or(kAttnStep, std::memory_order_relaxed);
  return Step::EndBlock;
}

Step cld(Cpu& cpu, const Insn&) {
  cpu.rflags_system &= ~kDf;
  cpu.df = false;
  return Step::Next;
}

Step std_(Cpu& cpu, const Insn&) {
  cpu.rflags_system |= kDf;
  cpu.df = true;
  return Step::Next;
}

Step clac(Cpu& cpu, const Insn&) {
  if (cpu.cpl != 0 || !is_protected(cpu)) return raise(cpu, kUD);
  set_rflags(cpu, 0, kAc);
  return Step::Next;
}

Step stac(Cpu& cpu, const Insn&) {
  if (cpu.cpl != 0 || !is_protected(cpu)) return raise(cpu, kUD);
  set_rflags(cpu, kAc, kAc);
  return Step::Next;
}

Step pushf(Cpu& cpu, const Insn& insn) {
  if (is_protected(cpu) && is_vm86(cpu) && iopl(cpu) < 3) return raise(cpu, kGP, 0);
  StackFrame stack = current_stack(cpu);
  if (!push_sized(cpu, stack, insn.width, rflags(cpu) & ~(kRf | kVm))) return Step::Fault;
  set_stack_pointer(cpu, stack);
  return Step::Next;
}

// SDM 2B table 4-12 ("Effect of POPF on the EFLAGS register").
Step popf(Cpu& cpu, const Insn& insn) {
  if (is_protected(cpu) && is_vm86(cpu) && iopl(cpu) < 3) return raise(cpu, kGP, 0);
  uint64_t value = 0;
  if (!peek_sized(cpu, insn.width, 0, value)) return Step::Fault;
  add_to_sp(cpu, insn.width);
  uint64_t mask = kArithmeticFlags | kTf | kDf | kNt;
  if (insn.width != 2) mask |= kAc | kId;
  const bool vm86 = is_protected(cpu) && is_vm86(cpu);
  if (!is_protected(cpu) || cpu.cpl <= iopl(cpu)) mask |= kIf;
  if (cpu.cpl == 0 && !vm86) {
    mask |= kIopl;
    if (insn.width != 2) {  // cleared, whatever the image holds
      mask |= kVif | kVip;
      value &= ~(kVif | kVip);
    }
  }
  const uint64_t old = cpu.rflags_system;
  set_rflags(cpu, value, mask);
  if (insn.width != 2) cpu.rflags_system &= ~kRf;
  const bool opened = (cpu.rflags_system & ~old & kIf) != 0;
  // The loop looks for interrupts between blocks; no need to hurry when none waits.
  const bool must_look = (opened && cpu.attention.load(std::memory_order_relaxed) != 0) ||
                         ((cpu.rflags_system ^ old) & kTf) != 0;
  return must_look ? Step::EndBlock : Step::Next;
}

Step hlt(Cpu& cpu, const Insn&) {
  if (!require_cpl0(cpu)) return Step::Fault;
  cpu.halted = true;
  cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
  return Step::EndBlock;
}

}  // namespace trapeze::soft::system
