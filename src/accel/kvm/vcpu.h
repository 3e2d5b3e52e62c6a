// KvmVcpu: one vCPU of KVM and its loop around KVM_RUN.
//
// Threads: run() on the vCPU's own thread; kick() and poke() from any; the rest while not running.
// A kick is never lost: it sets `immediate_exit`, which KVM looks at before it enters the guest,
// and then signals the thread, which ends a KVM_RUN that is under way (api.rst, "immediate_exit").
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "accel/kvm/cpuid.h"
#include "accel/kvm/device.h"
#include "accel/kvm/exits.h"
#include "accel/kvm/split_chips.h"
#include "base/mapping.h"

namespace trapeze::kvm {

// What a vCPU has of its VM; all of it outlives the vCPU.
struct VcpuParts {
  const KvmDevice* device = nullptr;
  const Fd* vm = nullptr;
  const GuestMemory* memory = nullptr;
  SplitChips* chips = nullptr;  // null: the chips are in the kernel
  std::span<const kvm_cpuid_entry2> supported_cpuid;
  CpuidPolicy cpuid_policy;
  size_t xsave_bytes = 0;  // 0: KVM_GET_XSAVE2 is not there
  std::function<void(VcpuId)> on_gone;
};

// Once in the process, before any vCPU runs: the signal that ends KVM_RUN gets its empty handler.
Result<void> install_kick_handler();

class KvmVcpu final : public AccelVcpu {
 public:
  static Result<std::unique_ptr<KvmVcpu>> create(VcpuId id, IoSink& io, const VcpuParts& parts);
  ~KvmVcpu() override;

  ExitReason run() override;
  void kick() override;
  // Makes KVM_RUN come back once, without ending run(). Any thread.
  void poke();
  VcpuState save() const override;
  Result<void> restore(const VcpuState& state) override;
  std::string error() const override { return error_; }
  uint64_t instructions() const override { return 0; }
  std::vector<Stat> stats() const override { return counters_.stats(); }

  Result<VcpuState> try_save() const;

 private:
  enum class Next : uint8_t { Enter, TripleFault, Error };

  KvmVcpu(VcpuId id, IoSink& io, VcpuParts parts, Fd fd, Mapping run_page);
  Result<void> set_up();
  Next handle_exit();
  void handle_io();
  void handle_mmio();
  void offer_extint();
  Next fail_with(std::string what);
  std::string dump() const;

  Result<void> save_xsave(VcpuState& state) const;
  Result<void> restore_xsave(const VcpuState& state);
  Result<std::vector<MsrValue>> read_msrs(std::span<const uint32_t> indices) const;
  Result<void> write_msrs(std::vector<MsrValue> msrs);

  const VcpuId id_;
  IoSink& io_;
  const VcpuParts parts_;
  const Fd fd_;
  const Mapping run_page_;
  kvm_run* const run_;
  const bool has_xcrs_;
  std::atomic<bool> kicked_{false};  // release in kick(), acquire in run()
  std::atomic<pid_t> thread_{0};     // the one in run(); 0: none. seq_cst with immediate_exit
  std::string error_;
  ExitCounters counters_;
};

}  // namespace trapeze::kvm
