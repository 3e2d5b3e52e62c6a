// TinyGuest: a VM of one vCPU and 64 KiB that runs a few bytes of our own in 64-bit mode: to ask a
// host what it can (accel/kvm/probe.h) and how long it takes (accel/kvm/bench.h). Its interrupts
// go to one handler; it has an enabled local APIC in x2APIC mode.
//
// Own thread only, but stop_after() and what it starts.
#pragma once

#include <linux/kvm.h>

#include <chrono>
#include <memory>
#include <optional>
#include <span>

#include "accel/kvm/device.h"
#include "base/mapping.h"

namespace trapeze::kvm {

class TinyGuest {
 public:
  static constexpr uint64_t kMemoryBytes = 64 * 1024;
  static constexpr uint64_t kCode = 0x8000;     // where `code` lies, and execution begins
  static constexpr uint64_t kHandler = 0x9000;  // where `handler` lies: all 256 vectors lead there
  static constexpr uint64_t kStack = 0xf000;
  static constexpr uint64_t kUnbacked = 0xe000'0000;  // an address that is mapped, and no RAM

  static Result<std::unique_ptr<TinyGuest>> create(std::span<const uint8_t> code,
                                                   std::span<const uint8_t> handler);

  // KVM_RUN until something comes out, or the limit passes: nullptr. An Error is the host's.
  Result<kvm_run*> run(std::chrono::milliseconds limit);
  Result<kvm_regs> registers() const;
  const Fd& vm() const { return vm_; }
  const KvmDevice& device() const { return device_; }
  std::byte* memory() { return memory_.data(); }

 private:
  TinyGuest(KvmDevice device, Fd vm, Mapping memory)
      : device_(std::move(device)), vm_(std::move(vm)), memory_(std::move(memory)) {}
  Result<void> set_up(std::span<const uint8_t> code, std::span<const uint8_t> handler);
  void write_tables();
  Result<void> set_registers();

  KvmDevice device_;
  Fd vm_;
  Mapping memory_;
  Fd vcpu_;
  Mapping run_page_;
};

}  // namespace trapeze::kvm
