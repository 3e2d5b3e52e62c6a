// CpuEnv: what a Cpu is wired to. Set once when the vCPU is made; all pointers outlive it.
#pragma once

#include "accel/io_sink.h"
#include "arch/x86/cpuid/cpu_model.h"
#include "base/clock.h"
#include "base/strong.h"
#include "memory/guest_memory.h"

namespace trapeze {
class Lapic;
class IrqChips;
class ApicMessageSink;
}  // namespace trapeze

namespace trapeze::soft {

struct Cpu;     // core/cpu.h
class CodeMap;  // mmu/code_map.h: which guest pages hold decoded code, for the whole VM

// Accesses that the accelerator itself answers before IoSink: the local and I/O APIC, PIC and PIT.
// Each returns false when the address is not one of its own.
class LocalIo {
 public:
  virtual ~LocalIo() = default;
  virtual bool mmio_read(uint64_t gpa, Width width, uint64_t& value) = 0;
  virtual bool mmio_write(uint64_t gpa, Width width, uint64_t value) = 0;
  virtual bool pio_read(Port port, Width width, uint32_t& value) = 0;
  virtual bool pio_write(Port port, Width width, uint32_t value) = 0;
};

// Drops decoded code that a CodeMap says is stale, also in the middle of the running block: what
// follows the current instruction is looked up again.
class CodeOwner {
 public:
  virtual ~CodeOwner() = default;
  virtual void drop_stale_code(Cpu& cpu) = 0;
};

struct CpuEnv {
  VcpuId id;
  GuestMemory* memory = nullptr;
  IoSink* io = nullptr;
  LocalIo* local_io = nullptr;          // may be null in tests
  Lapic* lapic = nullptr;               // may be null in tests
  ApicMessageSink* apic_bus = nullptr;  // may be null in tests
  IrqChips* chips = nullptr;            // may be null in tests
  const CpuModel* model = nullptr;      // what CPUID tells, and so which instructions there are
  const Clock* clock = nullptr;
  CodeMap* code_map = nullptr;
  CodeOwner* code_owner = nullptr;
  uint64_t tsc_zero_ns = 0;  // CLOCK_MONOTONIC at which the guest TSC is 0
  // By how much kvmclock is ahead of that, modulo 2^64: the VM has a life before this process.
  uint64_t kvm_clock_offset_ns = 0;
};

// The guest TSC runs at 1 GHz: one tick is a nanosecond of CLOCK_MONOTONIC. It costs no
// calibration, is the same on every host, and is told to the guest (CPUID 0x15, 0x16, 0x40000010).
inline constexpr uint32_t kTscKhz = 1'000'000;

}  // namespace trapeze::soft
