// Hardware task switches (SDM 3A 7.3); not in IA-32e mode.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

enum class TaskSource : uint8_t { Jump, Call, Interrupt, Iret };

struct TaskSwitch {
  uint16_t selector = 0;  // of the new TSS
  TaskSource source = TaskSource::Jump;
  uint64_t return_rip = 0;      // saved in the old TSS
  bool has_error_code = false;  // pushed on the new task's stack
  uint32_t error_code = 0;
};

// Switches; false with an exception pending. A fault that comes after the switch has been committed
// belongs to the new task: cpu.rip is then its EIP.
bool switch_task(Cpu& cpu, const TaskSwitch& task);

// Stack pointer for privilege level `cpl` from the current 16- or 32-bit TSS.
bool read_tss_stack(Cpu& cpu, unsigned cpl, uint16_t& ss, uint32_t& esp);
// The same from a 64-bit TSS: RSP0..2 for ist 0, else IST1..7.
bool read_tss_stack64(Cpu& cpu, unsigned cpl, unsigned ist, uint64_t& rsp);

}  // namespace trapeze::soft
