#include "accel/soft/system/event_delivery.h"

#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/segments.h"
#include "accel/soft/system/stack.h"
#include "accel/soft/system/task.h"

namespace trapeze::soft {
namespace {

// Error code that names an IDT entry.
uint32_t idt_error(uint8_t vector) { return vector * 8U + 2U; }

uint64_t pushed_flags(const Cpu& cpu, const Event& event) {
  return rflags(cpu) | (event.set_rf ? kRf : 0);
}

// What the handler starts with: TF, NT, RF and VM clear, and IF too behind an interrupt gate.
void enter_handler_flags(Cpu& cpu, bool is_interrupt_gate) {
  cpu.rflags_system &= ~(kTf | kNt | kRf | kVm | (is_interrupt_gate ? kIf : 0));
}

// --- real-address mode: four bytes a vector, no error codes (SDM 3A 20.1.4)
bool deliver_real(Cpu& cpu, const Event& event) {
  const uint64_t offset = event.vector * 4U;
  if (offset + 3 > cpu.idtr.limit) return fault(cpu, kGP, 0);
  uint32_t entry = 0;
  if (!read_system(cpu, cpu.idtr.base + offset, entry)) return false;
  StackFrame stack = current_stack(cpu);
  if (!push_on(cpu, stack, static_cast<uint16_t>(pushed_flags(cpu, event))) ||
      !push_on(cpu, stack, cpu.seg[kCs].selector) ||
      !push_on(cpu, stack, static_cast<uint16_t>(event.return_rip)))
    return false;
  set_stack_pointer(cpu, stack);
  load_real_segment(cpu, kCs, static_cast<uint16_t>(entry >> 16));
  cpu.rip = entry & 0xffffU;
  cpu.rflags_system &= ~(kIf | kTf | kAc | kRf);
  update_mode(cpu);
  return true;
}

// The handler's code segment, checked for an event at the current CPL. `new_cpl`: where it runs.
bool check_handler_segment(Cpu& cpu, uint16_t selector, Descriptor& code, unsigned& new_cpl) {
  if (is_null_selector(selector)) return fault(cpu, kGP, 0);
  if (!read_descriptor(cpu, selector, kGP, code)) return false;
  if (!code.is_code() || code.dpl() > cpu.cpl) return fault(cpu, kGP, selector_error(selector));
  if (is_long_mode(cpu) && (code.access() & (kSegL | kSegDb)) != kSegL)
    return fault(cpu, kGP, selector_error(selector));
  if (!code.is_present()) return fault(cpu, kNP, selector_error(selector));
  new_cpl = code.is_conforming() ? cpu.cpl : code.dpl();
  if (is_vm86(cpu) && new_cpl != 0) return fault(cpu, kGP, selector_error(selector));
  return true;
}

void load_handler_segment(Cpu& cpu, uint16_t selector, const Descriptor& code, unsigned new_cpl) {
  cpu.seg[kCs] = code.segment(static_cast<uint16_t>((selector & 0xfffcU) | new_cpl));
  cpu.cpl = static_cast<uint8_t>(new_cpl);
}

// --- IA-32e mode (SDM 3A 6.14)
bool read_gate64(Cpu& cpu, const Event& event, Descriptor& gate) {
  const uint64_t offset = event.vector * 16U;
  if (offset + 15 > cpu.idtr.limit) return fault(cpu, kGP, idt_error(event.vector));
  static_assert(sizeof(Descriptor) == 16);
  if (!read_system(cpu, cpu.idtr.base + offset, &gate, sizeof(gate))) return false;
  const bool type_ok =
      gate.is_system() && (gate.type() == kTypeIntGate32 || gate.type() == kTypeTrapGate32);
  if (!type_ok) return fault(cpu, kGP, idt_error(event.vector));
  if (event.source == EventSource::Software && gate.dpl() < cpu.cpl)
    return fault(cpu, kGP, idt_error(event.vector));
  if (!gate.is_present()) return fault(cpu, kNP, idt_error(event.vector));
  return true;
}

bool push_frame64(Cpu& cpu, const Event& event, StackFrame& stack) {
  return push_on<uint64_t>(cpu, stack, cpu.seg[kSs].selector) &&
         push_on<uint64_t>(cpu, stack, cpu.gpr[kRsp]) &&
         push_on<uint64_t>(cpu, stack, pushed_flags(cpu, event)) &&
         push_on<uint64_t>(cpu, stack, cpu.seg[kCs].selector) &&
         push_on<uint64_t>(cpu, stack, event.return_rip) &&
         (!event.has_error_code || push_on<uint64_t>(cpu, stack, event.error_code));
}

bool deliver_long(Cpu& cpu, const Event& event) {
  Descriptor gate, code;
  if (!read_gate64(cpu, event, gate)) return false;
  const uint16_t selector = gate.gate_selector();
  unsigned new_cpl = 0;
  if (!check_handler_segment(cpu, selector, code, new_cpl)) return false;

  const unsigned ist = static_cast<unsigned>(gate.low >> 32) & 7U;
  StackFrame stack;
  stack.sp_mask = ~uint64_t{0};
  stack.sp = cpu.gpr[kRsp];
  if (new_cpl != cpu.cpl || ist != 0) {
    if (!read_tss_stack64(cpu, new_cpl, ist, stack.sp)) return false;
  }
  stack.sp &= ~uint64_t{15};
  const uint64_t target = gate.gate_offset64();
  if (!is_canonical(cpu, target)) return fault(cpu, kGP, 0);
  {
    const RightsOf rights(cpu, new_cpl);
    if (!push_frame64(cpu, event, stack)) return false;
  }
  if (!mark_accessed(cpu, selector, code)) return false;

  if (new_cpl != cpu.cpl) cpu.seg[kSs] = null_stack_segment(new_cpl);
  load_handler_segment(cpu, selector, code, new_cpl);
  cpu.gpr[kRsp] = stack.sp;
  cpu.rip = target;
  enter_handler_flags(cpu, gate.type() == kTypeIntGate32);
  update_mode(cpu);
  return true;
}

// --- 32-bit protected mode, with the way out of virtual-8086 mode (SDM 3A 6.12, 20.3)
bool read_gate32(Cpu& cpu, const Event& event, Descriptor& gate) {
  const uint64_t offset = event.vector * 8U;
  if (offset + 7 > cpu.idtr.limit) return fault(cpu, kGP, idt_error(event.vector));
  if (!read_system(cpu, (cpu.idtr.base + offset) & 0xffff'ffffU, gate.low)) return false;
  switch (gate.is_system() ? gate.type() : 0) {
    case kTypeTaskGate:
    case kTypeIntGate16:
    case kTypeTrapGate16:
    case kTypeIntGate32:
    case kTypeTrapGate32:
      break;
    default:
      return fault(cpu, kGP, idt_error(event.vector));
  }
  if (event.source == EventSource::Software && gate.dpl() < cpu.cpl)
    return fault(cpu, kGP, idt_error(event.vector));
  if (!gate.is_present()) return fault(cpu, kNP, idt_error(event.vector));
  return true;
}

bool deliver_task_gate(Cpu& cpu, const Event& event, const Descriptor& gate) {
  TaskSwitch task;
  task.selector = gate.gate_selector();
  task.source = TaskSource::Interrupt;
  task.return_rip = event.return_rip;
  task.has_error_code = event.has_error_code;
  task.error_code = event.error_code;
  return switch_task(cpu, task);
}

// The stack that the handler runs on, when that is an inner one.
bool inner_stack(Cpu& cpu, unsigned new_cpl, StackFrame& stack) {
  uint16_t ss = 0;
  uint32_t esp = 0;
  Segment segment;
  if (!read_tss_stack(cpu, new_cpl, ss, esp)) return false;
  if (!check_stack_segment(cpu, ss, new_cpl, kTS, segment)) return false;
  stack = segment_stack(segment, esp, selector_error(ss));
  return true;
}

bool push_frame32(Cpu& cpu, const Event& event, unsigned size, bool is_inner, StackFrame& stack) {
  if (is_vm86(cpu)) {
    for (unsigned seg : {kGs, kFs, kDs, kEs})
      if (!push_sized(cpu, stack, size, cpu.seg[seg].selector)) return false;
  }
  if (is_inner) {
    if (!push_sized(cpu, stack, size, cpu.seg[kSs].selector) ||
        !push_sized(cpu, stack, size, cpu.gpr[kRsp]))
      return false;
  }
  return push_sized(cpu, stack, size, pushed_flags(cpu, event)) &&
         push_sized(cpu, stack, size, cpu.seg[kCs].selector) &&
         push_sized(cpu, stack, size, event.return_rip) &&
         (!event.has_error_code || push_sized(cpu, stack, size, event.error_code));
}

bool deliver_protected(Cpu& cpu, const Event& event) {
  Descriptor gate, code;
  if (!read_gate32(cpu, event, gate)) return false;
  if (gate.type() == kTypeTaskGate) return deliver_task_gate(cpu, event, gate);
  const uint16_t selector = gate.gate_selector();
  unsigned new_cpl = 0;
  if (!check_handler_segment(cpu, selector, code, new_cpl)) return false;

  const bool is_32 = gate.type() >= kTypeTss32;
  const uint32_t target = is_32 ? gate.gate_offset() : gate.gate_offset() & 0xffffU;
  const bool is_inner = new_cpl != cpu.cpl;
  StackFrame stack = current_stack(cpu);
  if (is_inner && !inner_stack(cpu, new_cpl, stack)) return false;
  const Segment handler = code.segment(selector);
  if (!is_within_limit(handler, target, 1)) return fault(cpu, kGP, 0);
  {
    const RightsOf rights(cpu, new_cpl);
    if (!push_frame32(cpu, event, is_32 ? 4 : 2, is_inner, stack)) return false;
  }
  if (!mark_accessed(cpu, selector, code)) return false;

  if (is_vm86(cpu)) {
    for (unsigned seg : {kGs, kFs, kDs, kEs}) cpu.seg[seg] = null_segment(0);
  }
  if (is_inner) cpu.seg[kSs] = stack.ss;
  load_handler_segment(cpu, selector, code, new_cpl);
  set_stack_pointer(cpu, stack);
  cpu.rip = target;
  enter_handler_flags(cpu, (gate.type() & 1U) == 0);
  update_mode(cpu);
  return true;
}

}  // namespace

bool deliver_event(Cpu& cpu, const Event& event) {
  if (!is_protected(cpu)) return deliver_real(cpu, event);
  if (is_long_mode(cpu)) return deliver_long(cpu, event);
  return deliver_protected(cpu, event);
}

}  // namespace trapeze::soft
