// The answers of CPUID (SDM 2A "CPUID"; the KVM leaves: Linux
// Documentation/virt/kvm/x86/cpuid.rst).
#include <bit>
#include <cstring>

#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze {
namespace {

constexpr uint32_t kMaxBasicLeaf = 0x1f;
constexpr uint32_t kMaxExtendedLeaf = 0x80000008;
constexpr uint32_t kKvmBase = 0x40000000;
constexpr uint32_t kMaxKvmLeaf = 0x40000010;

// Family 6, model 0x1c, stepping 10: an in-order Atom. Kernels know that it does not speculate, so
// they leave out page table isolation, retpolines and the like, which would only cost time here.
constexpr uint32_t kSignature = 0x000106ca;

// The guest TSC and the APIC timer run at 1 GHz: a tick is a nanosecond.
constexpr uint32_t kTscHz = 1'000'000'000;
constexpr uint32_t kKhz = kTscHz / 1000;
constexpr uint32_t kMhz = kTscHz / 1'000'000;

constexpr uint32_t kKvmClockSource = 1U << 0, kKvmNopIoDelay = 1U << 1, kKvmClockSource2 = 1U << 3,
                   kKvmSendIpi = 1U << 11, kKvmClockStable = 1U << 24;

constexpr char kBrand[48] = "Trapeze soft CPU";

uint32_t word(const char* text, unsigned offset) {
  uint32_t value = 0;
  std::memcpy(&value, text + offset, sizeof(value));
  return value;
}

// APIC ID bits that number the cores of the one package.
unsigned core_id_bits(unsigned vcpu_count) {
  return static_cast<unsigned>(std::bit_width(vcpu_count - 1));
}

}  // namespace

uint32_t CpuModel::feature_bits(uint32_t leaf, CpuidRegister reg) const {
  uint32_t bits = 0;
  for (const FeatureInfo& info : feature_table()) {
    if (info.leaf == leaf && info.reg == reg && has(info.feature)) bits |= 1U << info.bit;
  }
  return bits;
}

// Deterministic cache parameters. They are not the host's: a guest must not depend on where it
// runs. Sizes are of a plain server core; L3 is shared by the package.
CpuidResult CpuModel::cache_leaf(uint32_t subleaf) const {
  struct Cache {
    uint32_t type, level, ways, sets, shared;
  };
  const uint32_t cores = 1U << core_id_bits(vcpu_count_);
  const Cache caches[] = {{1, 1, 8, 64, 1},           // 32 KiB data
                          {2, 1, 8, 64, 1},           // 32 KiB code
                          {3, 2, 16, 1024, 1},        // 1 MiB
                          {3, 3, 16, 16384, cores}};  // 16 MiB
  if (subleaf >= std::size(caches)) return {};
  const Cache& cache = caches[subleaf];
  CpuidResult result;
  result.eax = cache.type | (cache.level << 5) | (1U << 8) | ((cache.shared - 1) << 14) |
               ((cores - 1) << 26);
  result.ebx = 63 | ((cache.ways - 1) << 22);  // 64-byte lines, 1 partition
  result.ecx = cache.sets - 1;
  return result;
}

// One package, every vCPU a core of one thread.
CpuidResult CpuModel::topology_leaf(uint32_t subleaf, VcpuId vcpu) const {
  CpuidResult result;
  result.ecx = subleaf & 0xff;
  result.edx = vcpu.raw();
  if (subleaf == 0) {
    result.ebx = 1;
    result.ecx |= 1U << 8;  // SMT
  } else if (subleaf == 1) {
    result.eax = core_id_bits(vcpu_count_);
    result.ebx = vcpu_count_;
    result.ecx |= 2U << 8;  // core
  }
  return result;
}

// Sub-leaf 0 EBX and sub-leaf 1 EBX follow from XCR0: these are for the value at reset.
CpuidResult CpuModel::xsave_leaf(uint32_t subleaf) const {
  constexpr uint32_t kXsaveopt = 1U << 0, kXsavec = 1U << 1, kXgetbv1 = 1U << 2;
  if (!has(Feature::Xsave)) return {};
  const uint64_t bits = xcr0_bits();
  const uint32_t at_reset = xsave_area_bytes(kXcr0X87);
  if (subleaf == 0) return {static_cast<uint32_t>(bits), at_reset, xsave_area_bytes(bits), 0};
  if (subleaf == 1) return {kXsaveopt | kXsavec | kXgetbv1, at_reset, 0, 0};
  if (subleaf == 2 && (bits & kXcr0Avx) != 0) return {kXsaveAvxBytes, kXsaveAvxOffset, 0, 0};
  return {};
}

CpuidResult CpuModel::basic_leaf(uint32_t leaf, uint32_t subleaf, VcpuId vcpu) const {
  switch (leaf) {
    case 0:
      return {kMaxBasicLeaf, word("GenuineIntel", 0), word("GenuineIntel", 8),
              word("GenuineIntel", 4)};
    case 1: {
      const uint32_t logical = vcpu_count_ > 1 ? 1U << core_id_bits(vcpu_count_) : 0;
      return {kSignature, (8U << 8) | ((logical & 0xff) << 16) | (vcpu.raw() << 24),
              feature_bits(1, CpuidRegister::Ecx), feature_bits(1, CpuidRegister::Edx)};
    }
    case 2:
      return {0x0000ff01, 0, 0, 0};  // "see leaf 4"
    case 4:
      return cache_leaf(subleaf);
    case 6:
      return {1U << 2, 0, 0, 0};  // ARAT: the APIC timer never stops
    case 7:
      if (subleaf != 0) return {};
      return {0, feature_bits(7, CpuidRegister::Ebx), feature_bits(7, CpuidRegister::Ecx),
              feature_bits(7, CpuidRegister::Edx)};
    case 0xd:
      return xsave_leaf(subleaf);
    case 0xb:
    case 0x1f:
      return topology_leaf(subleaf, vcpu);
    case 0x15:
      return {1, 1, kTscHz, 0};  // TSC = crystal * 1 / 1
    case 0x16:
      return {kMhz, kMhz, kMhz, 0};
    default:
      return {};
  }
}

CpuidResult CpuModel::extended_leaf(uint32_t leaf) const {
  switch (leaf) {
    case 0x80000000:
      return {kMaxExtendedLeaf, 0, 0, 0};
    case 0x80000001:
      return {0, 0, feature_bits(leaf, CpuidRegister::Ecx), feature_bits(leaf, CpuidRegister::Edx)};
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
      const unsigned at = (leaf - 0x80000002) * 16;
      return {word(kBrand, at), word(kBrand, at + 4), word(kBrand, at + 8), word(kBrand, at + 12)};
    }
    case 0x80000006:
      return {0, 0, 64U | (8U << 12) | (1024U << 16), 0};  // L2: 64-byte lines, 16 ways, 1 MiB
    case 0x80000007:
      return {0, 0, 0, feature_bits(leaf, CpuidRegister::Edx)};
    case 0x80000008:
      return {phys_bits_ | (linear_bits() << 8), 0, 0, 0};
    default:
      return {};
  }
}

CpuidResult CpuModel::cpuid(uint32_t leaf, uint32_t subleaf, VcpuId vcpu) const {
  if (leaf <= kMaxBasicLeaf) return basic_leaf(leaf, subleaf, vcpu);
  if (leaf >= 0x80000000 && leaf <= kMaxExtendedLeaf) return extended_leaf(leaf);
  switch (leaf) {
    case kKvmBase:
      return {kMaxKvmLeaf, word("KVMKVMKVM\0\0\0", 0), word("KVMKVMKVM\0\0\0", 4),
              word("KVMKVMKVM\0\0\0", 8)};
    case kKvmBase + 1:
      return {kKvmClockSource | kKvmNopIoDelay | kKvmClockSource2 | kKvmSendIpi | kKvmClockStable,
              0, 0, 0};
    case kMaxKvmLeaf:
      return {kKhz, kKhz, 0, 0};  // TSC and APIC bus, kHz
    default:
      return {};
  }
}

}  // namespace trapeze
