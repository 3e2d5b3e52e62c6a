// KvmVm: a VM of /dev/kvm as an accelerator: memory slots, interrupt controllers (in the kernel, or
// split: local APICs in the kernel, I/O APIC, 8259s and 8254 of irq/chip here), routes, and vCPUs.
//
// Threads: create_vm() and create_vcpu() on the building thread; InterruptSink from any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "accel/accel.h"
#include "accel/kvm/device.h"
#include "base/clock.h"

namespace trapeze::kvm {

enum class IrqchipKind : uint8_t { Kernel, Split };

struct KvmConfig {
  std::string device_path = "/dev/kvm";
  unsigned vcpu_count = 1;
  IrqchipKind irqchip = IrqchipKind::Kernel;
  // HLT, PAUSE and MWAIT run in the guest without an exit: the CPU is the guest's alone.
  bool cpu_pm = false;
  std::optional<uint64_t> halt_poll_ns;
};

// `memory` and `clock` must outlive the VM. Nothing may still use `memory` through another VM.
Result<std::unique_ptr<AccelVm>> create_vm(GuestMemory& memory, const Clock& clock,
                                           const KvmConfig& config);

}  // namespace trapeze::kvm
