// SoftVm: the software engine as an accelerator. Needs no device file, no privilege, no signals.
//
// Threads: each SoftVcpu runs on its caller's thread. One thread of the VM's own watches timer
// deadlines (local APICs, PIT) for vCPUs that are running; a halted vCPU watches its own.
#pragma once

#include <memory>
#include <string>

#include "accel/accel.h"
#include "base/clock.h"

namespace trapeze::soft {

enum class SoftExec : uint8_t {
  Auto,  // the translator where this host can run its code, else the interpreter
  Interpreter,
  Translator,
};

struct SoftConfig {
  std::string cpu_model;    // empty: the default model
  unsigned vcpu_count = 1;  // 1 to 32
  SoftExec exec = SoftExec::Auto;
};

// `memory` and `clock` must outlive the VM.
Result<std::unique_ptr<AccelVm>> create_vm(GuestMemory& memory, const Clock& clock,
                                           const SoftConfig& config);

}  // namespace trapeze::soft
