// When a run reached what, in CLOCK_MONOTONIC nanoseconds; 0: never.
#pragma once

#include <cstdint>
#include <string>

namespace trapeze {

struct Timeline {
  std::string accel;         // "kvm" or "soft"
  std::string accel_reason;  // why that one
  uint64_t process_start_ns = 0;
  uint64_t vm_built_ns = 0;
  uint64_t first_instruction_ns = 0;
  uint64_t first_instruction_cpu_ns = 0;  // CPU time of the process by then
  uint64_t init_ns = 0;                   // the guest's init runs and has opened its ports
  uint64_t command_ns = 0;                // the command's exec succeeded
  uint64_t exit_ns = 0;  // the command's end and all its output arrived, or the VM ended
  uint64_t vm_stopped_ns = 0;
  uint64_t guest_instructions = 0;  // of all vCPUs; 0 where nobody counts
};

}  // namespace trapeze
