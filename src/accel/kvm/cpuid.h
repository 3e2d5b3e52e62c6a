// The CPUID of a guest under KVM: what KVM supports, filtered by what this VMM serves, made to fit
// one vCPU. Pure; docs/kvm.md lists the rules.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "accel/kvm/device.h"
#include "base/strong.h"

namespace trapeze::kvm {

struct CpuidPolicy {
  HostKind kind = HostKind::Hardware;
  unsigned vcpu_count = 1;
  uint32_t tsc_khz = 0;           // 0: unknown
  bool has_tsc_deadline = false;  // KVM_CAP_TSC_DEADLINE_TIMER
  bool mwait_in_guest = false;    // --cpu-pm
  unsigned max_phys_bits = 0;     // 0: the host's
};

// Entries for vCPU `id` from KVM_GET_SUPPORTED_CPUID.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          const CpuidPolicy& policy, VcpuId id);

const kvm_cpuid_entry2* find_leaf(std::span<const kvm_cpuid_entry2> entries, uint32_t leaf,
                                  uint32_t subleaf = 0);
// Physical address bits of leaf 0x80000008; 36 when it is not there.
unsigned phys_bits(std::span<const kvm_cpuid_entry2> entries);

// PVM guests reach little beyond the direct map's start: devices must lie low (docs/kvm.md).
inline constexpr unsigned kPvmMaxPhysBits = 43;

}  // namespace trapeze::kvm
