// SoftVcpu: one virtual CPU of the software engine: its state, caches, local APIC, and how it
// sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>

#include "accel/accel.h"
#include "accel/soft/cache/block_cache.h"
#include "accel/soft/core/cpu.h"
#include "accel/soft/core/env.h"
#include "accel/soft/run.h"
#include "accel/soft/translator/translator.h"
#include "irq/chip/apic_bus.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft {

// What a vCPU needs of its VM.
class VcpuHost {
 public:
  virtual ~VcpuHost() = default;
  virtual void send_ipi(const ApicMessage& message) = 0;  // any vCPU thread
  virtual void broadcast_eoi(uint8_t vector) = 0;         // any vCPU thread
  virtual void arm_timer(VcpuId id, std::optional<uint64_t> deadline_ns) = 0;
  virtual void vcpu_gone(VcpuId id) = 0;  // from its destructor
};

// Parts of the VM that a vCPU is wired to; all outlive it.
struct VcpuWiring {
  GuestMemory* memory;
  const Clock* clock;
  const CpuModel* model;
  CodeMap* code_map;
  IrqChips* chips;
  ApicBus* apic_bus;
  VcpuHost* host;
  uint64_t tsc_zero_ns;
  bool translate;
};

class SoftVcpu final : public AccelVcpu, private LapicHost, private LocalIo {
 public:
  static Result<std::unique_ptr<SoftVcpu>> create(VcpuId id, IoSink& io, const VcpuWiring& wiring);
  ~SoftVcpu() override;

  ExitReason run() override;
  void kick() override;
  VcpuState save() const override;
  Result<void> restore(const VcpuState& state) override;
  std::string error() const override;
  uint64_t instructions() const override;
  std::vector<Stat> stats() const override;

  // CpuEnv::kvm_clock_offset_ns; the guest is told. Only while not running.
  void set_kvm_clock_offset(uint64_t offset_ns);
  Lapic& lapic() { return lapic_; }
  // The local APIC timer's deadline has passed. Any thread.
  void timer_passed();

 private:
  SoftVcpu(VcpuId id, IoSink& io, const VcpuWiring& wiring, std::unique_ptr<BlockCache> blocks);
  RunResult run_guest();
  void sleep();
  void raise_attention(uint32_t bits);

  // LapicHost
  void send_ipi(const ApicMessage& message) override;
  void wake() override;
  void timer_changed(std::optional<uint64_t> deadline_ns) override;
  void broadcast_eoi(uint8_t vector) override;
  uint64_t tsc_to_ns(uint64_t tsc) override;
  // LocalIo
  bool mmio_read(uint64_t gpa, Width width, uint64_t& value) override;
  bool mmio_write(uint64_t gpa, Width width, uint64_t value) override;
  bool pio_read(Port port, Width width, uint32_t& value) override;
  bool pio_write(Port port, Width width, uint32_t value) override;

  const VcpuWiring wiring_;
  std::unique_ptr<BlockCache> blocks_;
  CpuEnv env_;
  std::unique_ptr<TlbContexts> tlbs_;
  Lapic lapic_;
  Cpu cpu_{};
  std::unique_ptr<Translator> translator_;  // null: the interpreter only

  // Sleep and wake: a sleeper sets sleeping_ and then looks at attention; a waker sets attention
  // and then looks at sleeping_; both sequentially consistent, so one of them sees the other.
  std::atomic<bool> sleeping_{false};
  std::mutex sleep_mutex_;
  std::condition_variable sleep_condition_;
  std::optional<uint64_t> deadline_ns_;  // of the local APIC timer; own thread
};

}  // namespace trapeze::soft
