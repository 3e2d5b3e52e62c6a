#include "accel/kvm/cpuid.h"

#include <algorithm>
#include <bit>

namespace trapeze::kvm {
namespace {

constexpr uint32_t kKvmBase = 0x40000000;
constexpr uint32_t kKvmTiming = 0x40000010;  // TSC and APIC bus frequency in kHz
constexpr uint32_t kApicBusKhz = 1'000'000;  // KVM's local APIC counts nanoseconds

constexpr uint32_t bit(unsigned number) { return uint32_t{1} << number; }

// Features that KVM can offer and this VMM does not serve.
struct Removed {
  uint32_t leaf;
  uint32_t subleaf;
  uint32_t ebx, ecx, edx;
};
constexpr Removed kRemoved[] = {
    // VMX: no nested state in snapshots yet. SMX, EST, TM2, xTPR, PDCM, DCA: no such hardware here.
    {1, 0, 0, bit(5) | bit(6) | bit(7) | bit(8) | bit(14) | bit(15) | bit(18),
     bit(21) | bit(22) | bit(29) | bit(31)},  // DS, ACPI thermal, TM, PBE
    {7, 0, bit(2) | bit(25),                  // SGX, processor trace
     bit(30), 0},                             // SGX launch control
    {0x80000001, 0, 0, bit(2) | bit(10) | bit(12) | bit(23) | bit(24) | bit(28),
     0},  // SVM, IBS, SKINIT, counters
};
// What PVM cannot run (docs/kvm.md): SMAP (no STAC/CLAC at CPL 3), LASS, XSAVES.
constexpr Removed kRemovedPvm[] = {{7, 0, bit(20), 0, 0}};

// Whole leaves that stay empty: counters, SGX, processor trace, SVM.
constexpr uint32_t kEmptied[] = {0xa, 0x12, 0x14, 0x8000000a, 0x80000022};

void remove_features(kvm_cpuid_entry2& entry, std::span<const Removed> table) {
  for (const Removed& removed : table) {
    if (entry.function != removed.leaf || entry.index != removed.subleaf) continue;
    entry.ebx &= ~removed.ebx;
    entry.ecx &= ~removed.ecx;
    entry.edx &= ~removed.edx;
  }
}

void fit_leaf1(kvm_cpuid_entry2& entry, const CpuidPolicy& policy, VcpuId id) {
  const unsigned logical = std::bit_ceil(policy.vcpu_count);
  entry.ebx = (entry.ebx & 0xffffU) | std::min(logical, 255U) << 16 | id.raw() << 24;
  entry.ecx |= bit(31);  // a hypervisor is there
  entry.ecx |= bit(21);  // x2APIC: KVM's local APIC has it on any host
  entry.ecx = policy.mwait_in_guest ? entry.ecx | bit(3) : entry.ecx & ~bit(3);
  entry.ecx = policy.has_tsc_deadline ? entry.ecx | bit(24) : entry.ecx & ~bit(24);
  entry.edx = policy.vcpu_count > 1 ? entry.edx | bit(28) : entry.edx & ~bit(28);
}

// Every vCPU is a core of one package; caches below the last level are its own.
void fit_caches(kvm_cpuid_entry2& entry, const CpuidPolicy& policy) {
  const uint32_t type = entry.eax & 0x1fU;
  if (type == 0) return;
  const uint32_t level = (entry.eax >> 5) & 7U;
  const uint32_t sharing = level >= 3 ? std::bit_ceil(policy.vcpu_count) - 1 : 0;
  const uint32_t cores = std::min(std::bit_ceil(policy.vcpu_count) - 1, 63U);
  entry.eax = (entry.eax & 0x3fffU) | sharing << 14;
  if (entry.function == 4) entry.eax |= cores << 26;
}

// Leaves 0xb and 0x1f: threads (one a core), then cores (SDM 2A "CPUID", leaf 0BH).
kvm_cpuid_entry2 topology(uint32_t leaf, uint32_t subleaf, const CpuidPolicy& policy, VcpuId id) {
  kvm_cpuid_entry2 entry{};
  entry.function = leaf;
  entry.index = subleaf;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  entry.ecx = subleaf;
  entry.edx = id.raw();
  if (subleaf == 0) {
    entry.eax = 0;
    entry.ebx = 1;
    entry.ecx |= 1U << 8;
  } else if (subleaf == 1) {
    entry.eax = static_cast<uint32_t>(std::bit_width(std::bit_ceil(policy.vcpu_count)) - 1);
    entry.ebx = policy.vcpu_count;
    entry.ecx |= 2U << 8;
  }
  return entry;
}

void fit_extended(kvm_cpuid_entry2& entry, const CpuidPolicy& policy, VcpuId id) {
  if (entry.function == 0x80000001) {
    entry.ecx &= ~bit(1);  // CmpLegacy and TopologyExtensions describe the host's cores
    entry.ecx &= ~bit(22);
  }
  if (entry.function == 0x80000008) {
    unsigned bits = entry.eax & 0xffU;
    if (policy.max_phys_bits != 0) bits = std::min(bits, policy.max_phys_bits);
    entry.eax = (entry.eax & ~0xffU & ~0xff0000U) | bits;
    entry.ecx = (entry.ecx & ~0xffffU) | std::min(policy.vcpu_count - 1, 255U);
  }
  if (entry.function == 0x8000001e) {
    entry.eax = id.raw();
    entry.ebx = id.raw();
    entry.ecx = 0;
  }
}

void fit_hypervisor(kvm_cpuid_entry2& entry, const CpuidPolicy& policy) {
  // A PVM guest goes by the leaves as its host gives them.
  if (policy.kind == HostKind::Pvm || policy.tsc_khz == 0) return;
  if (entry.function == kKvmBase) entry.eax = std::max(entry.eax, kKvmTiming);
}

}  // namespace

const kvm_cpuid_entry2* find_leaf(std::span<const kvm_cpuid_entry2> entries, uint32_t leaf,
                                  uint32_t subleaf) {
  for (const auto& entry : entries) {
    if (entry.function != leaf) continue;
    if ((entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) == 0 || entry.index == subleaf)
      return &entry;
  }
  return nullptr;
}

unsigned phys_bits(std::span<const kvm_cpuid_entry2> entries) {
  const auto* entry = find_leaf(entries, 0x80000008);
  return entry == nullptr ? 36 : entry->eax & 0xffU;
}

std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          const CpuidPolicy& policy, VcpuId id) {
  std::vector<kvm_cpuid_entry2> entries;
  bool has_topology = false;
  for (kvm_cpuid_entry2 entry : supported) {
    const uint32_t leaf = entry.function;
    if (leaf == 0xb || leaf == 0x1f) {
      has_topology |= leaf == 0xb;
      continue;  // the host's cores are not the guest's
    }
    if (leaf == kKvmTiming) continue;
    remove_features(entry, kRemoved);
    if (policy.kind == HostKind::Pvm) {
      remove_features(entry, kRemovedPvm);
      if (leaf == 7 && entry.index == 1) entry.eax &= ~bit(6);         // LASS
      if (leaf == 0xd && entry.index == 1) entry.eax &= ~bit(3);       // XSAVES
      if (leaf == 0xd && entry.index == 1) entry.ecx = entry.edx = 0;  // IA32_XSS
    }
    if (std::find(std::begin(kEmptied), std::end(kEmptied), leaf) != std::end(kEmptied)) {
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
    }
    if (leaf == 1) fit_leaf1(entry, policy, id);
    if (leaf == 4 || leaf == 0x8000001d) fit_caches(entry, policy);
    if (leaf >= kKvmBase && leaf < kKvmBase + 0x100) fit_hypervisor(entry, policy);
    if (leaf >= 0x80000000) fit_extended(entry, policy, id);
    entries.push_back(entry);
  }
  if (has_topology) {
    for (uint32_t subleaf = 0; subleaf < 3; ++subleaf) {
      entries.push_back(topology(0xb, subleaf, policy, id));
    }
  }
  if (policy.kind == HostKind::Hardware && policy.tsc_khz != 0 &&
      find_leaf(entries, kKvmBase) != nullptr) {
    kvm_cpuid_entry2 timing{};
    timing.function = kKvmTiming;
    timing.eax = policy.tsc_khz;
    timing.ebx = kApicBusKhz;
    entries.push_back(timing);
  }
  return entries;
}

}  // namespace trapeze::kvm
