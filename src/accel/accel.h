// The seam between the VM and what executes guest code. No concrete accelerator is known above it
// but in vm/builder.cpp; no accelerator knows a device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "accel/io_sink.h"
#include "arch/x86/vcpu_state.h"
#include "base/result.h"
#include "base/strong.h"
#include "irq/chip/irq_chips.h"
#include "irq/interrupt_sink.h"
#include "memory/guest_memory.h"

namespace trapeze {

// Why AccelVcpu::run() came back. Port and MMIO accesses never leave run().
enum class ExitReason : uint8_t {
  Kicked,       // somebody called kick(); may be spurious
  TripleFault,  // the guest shut the CPU down (SDM 3A 6.15, "Interrupt 8")
  AccelError,   // the accelerator cannot go on; AccelVcpu::error() says why
};

// One figure for `trapeze run --stats`. Names are lower case, words joined by "_", groups by "."
// ("exit.mmio"); figures of the same name are added up over the vCPUs.
struct Stat {
  std::string name;
  uint64_t value = 0;
  bool operator==(const Stat&) const = default;
};

// What a VM has besides its vCPUs, memory and devices; the same for every accelerator and in every
// snapshot. Plain data.
struct AccelVmState {
  IrqChipsState chips;
  uint64_t clock_ns = 0;  // the paravirtual clock: nanoseconds that the VM has seen
  uint32_t tsc_khz = 0;   // of the guest's TSC; 0: not known
  bool operator==(const AccelVmState&) const = default;
};

// For AccelVm::restore(): an Error when a guest that knows its TSC to run at `saved_khz` would find
// another speed. 0 is not known, and then nobody told the guest either.
Result<void> check_tsc_speed(uint32_t saved_khz, uint32_t here_khz);

class AccelVcpu {
 public:
  virtual ~AccelVcpu() = default;
  // Runs guest code until something ends it. HLT and the wait for SIPI block inside. Always on the
  // same thread for one vCPU.
  virtual ExitReason run() = 0;
  // Makes run() return soon; never lost, also just before run(). Any thread.
  virtual void kick() = 0;
  // The state, complete; only while not running.
  virtual VcpuState save() const = 0;
  virtual Result<void> restore(const VcpuState& state) = 0;
  // After AccelError: what happened, with registers, for a person. May have several lines.
  virtual std::string error() const = 0;
  // Guest instructions executed so far, or 0 where nobody counts. Any thread, approximate.
  virtual uint64_t instructions() const = 0;
  // What it counted so far; only while not running.
  virtual std::vector<Stat> stats() const { return {}; }
};

class AccelVm : public InterruptSink {
 public:
  // vCPU `id` also has APIC ID `id`. vCPU 0 is the bootstrap processor; the others start in
  // wait-for-SIPI. `io` must outlive the vCPU. Call once for each id before any of them runs.
  virtual Result<std::unique_ptr<AccelVcpu>> create_vcpu(VcpuId id, IoSink& io) = 0;
  // Only while no vCPU runs. The vCPUs are restored first: an interrupt that waits in the I/O APIC
  // goes to a local APIC at once. Wires are part of the state as far as the accelerator knows them;
  // devices say the level of theirs again afterwards.
  virtual Result<AccelVmState> save() const = 0;
  // An Error, and nothing that can be relied on, when the guest would notice: its TSC would run at
  // another speed.
  virtual Result<void> restore(const AccelVmState& state) = 0;
  // What belongs to no vCPU; only while none runs.
  virtual std::vector<Stat> stats() const { return {}; }
};

}  // namespace trapeze
