#include "accel/soft/system/events.h"

#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/event_delivery.h"
#include "accel/soft/system/mode.h"

namespace trapeze::soft {
namespace {

// SDM 3A table 6-4.
enum class Severity : uint8_t { Benign, Contributory, PageFault };

Severity severity(uint8_t vector) {
  switch (vector) {
    case kDE:
    case kTS:
    case kNP:
    case kSS:
    case kGP:
      return Severity::Contributory;
    case kPF:
      return Severity::PageFault;
    default:
      return Severity::Benign;
  }
}

// SDM 3A table 6-5: does `second`, raised while `first` was delivered, make a double fault?
bool makes_double_fault(uint8_t first, uint8_t second) {
  const Severity a = severity(first), b = severity(second);
  if (a == Severity::Contributory) return b == Severity::Contributory;
  if (a == Severity::PageFault) return b != Severity::Benign;
  return false;
}

// Exceptions that report the instruction they belong to, which is to run again: their handlers find
// RF set, so that the instruction does not meet its own breakpoint again (SDM 3B 17.3.1.1).
bool is_fault_class(uint8_t vector) {
  return vector != kDB && vector != kNMI && vector != kBP && vector != kOF && vector != kDF &&
         vector != kMC;
}

bool has_selector_error(uint8_t vector) {
  return vector == kTS || vector == kNP || vector == kSS || vector == kGP;
}

Event event_of(Cpu& cpu, const Fault& fault) {
  if (fault.vector == kPF) cpu.cr2 = fault.cr2;
  if (fault.vector == kDB) {
    cpu.dr6 = (cpu.dr6 & ~uint64_t{0xf}) | fault.dr6;
    cpu.dr7 &= ~kDr7Gd;
  }
  Event event;
  event.vector = fault.vector;
  event.source = EventSource::Exception;
  event.has_error_code = fault.has_error_code;
  event.error_code = fault.error_code;
  event.return_rip = cpu.rip;
  event.set_rf = is_fault_class(fault.vector);
  return event;
}

void shut_down(Cpu& cpu) {
  cpu.fault = {};
  cpu.shut_down = true;
  cpu.halted = true;
  cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
}

// Delivers `event`; what faults on the way follows it, as far as the double fault.
void deliver_with_nesting(Cpu& cpu, Event event) {
  cpu.halted = false;
  cpu.shadow = 0;
  for (;;) {
    if (deliver_event(cpu, event)) return;
    Fault second = cpu.fault;
    cpu.fault = {};
    // CR2 tells of every page fault that is met, also of one that becomes a double fault (SDM 3A
    // 6.15, footnote under "Interrupt 14").
    if (second.vector == kPF) cpu.cr2 = second.cr2;
    const bool is_exception = event.source == EventSource::Exception;
    if (is_exception && event.vector == kDF) return shut_down(cpu);
    if (is_exception && makes_double_fault(event.vector, second.vector)) {
      second = {kDF, true, true, 0, 0, 0};
    } else if (second.has_error_code && has_selector_error(second.vector)) {
      second.error_code |= 1;  // EXT: the program did not ask for the event that failed
    }
    event = event_of(cpu, second);
  }
}

}  // namespace

void deliver_fault(Cpu& cpu) {
  const Fault fault = cpu.fault;
  cpu.fault = {};
  deliver_with_nesting(cpu, event_of(cpu, fault));
}

void deliver_interrupt(Cpu& cpu, uint8_t vector) {
  Event event;
  event.vector = vector;
  event.source = EventSource::External;
  event.return_rip = cpu.rip;
  deliver_with_nesting(cpu, event);
}

void deliver_nmi(Cpu& cpu) {
  cpu.nmi_blocked = true;
  Event event;
  event.vector = kNMI;
  event.source = EventSource::External;
  event.return_rip = cpu.rip;
  deliver_with_nesting(cpu, event);
}

Step software_interrupt(Cpu& cpu, uint8_t vector, uint64_t return_rip) {
  Event event;
  event.vector = vector;
  event.source = EventSource::Software;
  event.return_rip = return_rip;
  if (!deliver_event(cpu, event)) return Step::Fault;
  cpu.stepping =
      false;  // the handler starts with TF clear and is not stepped into (SDM 3B 17.3.1.4)
  return Step::Branch;
}

}  // namespace trapeze::soft
