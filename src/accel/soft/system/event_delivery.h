// One event through one gate: the IVT, or the IDT of 32-bit and IA-32e mode (SDM 3A 6.12, 6.14).
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

enum class EventSource : uint8_t {
  External,   // interrupts and NMI
  Exception,  // also INT1, which checks no privilege and sets EXT like an exception
  Software,   // INT n, INT3, INTO: the gate's DPL is checked
};

struct Event {
  uint8_t vector = 0;
  EventSource source = EventSource::External;
  bool has_error_code = false;
  bool set_rf = false;  // in the pushed flags
  uint32_t error_code = 0;
  uint64_t return_rip = 0;
};

// Delivers. False with an exception pending in cpu.fault (its EXT bit not yet set); then the CPU
// still is where it was, unless a task switch had been committed.
bool deliver_event(Cpu& cpu, const Event& event);

}  // namespace trapeze::soft
