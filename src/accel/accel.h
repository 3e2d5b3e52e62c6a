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
  // What belongs to no vCPU; only while none runs.
  virtual std::vector<Stat> stats() const { return {}; }
};

}  // namespace trapeze
