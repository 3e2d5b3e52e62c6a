// CpuModel: what a virtual CPU says of itself by CPUID, and so which instructions it has.
//
// The software engine takes it as it is. KVM filters the features by what the host supports, and
// must take family, model, stepping and IA32_ARCH_CAPABILITIES from the host: the ones told here
// say "does not speculate", which holds for an interpreter and not for a real core.
// Immutable once created; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/strong.h"

namespace trapeze {

// One bit of CPUID each; cpu_model.cpp has the table of leaf, register and bit (SDM 2A "CPUID").
enum class Feature : uint8_t {
  // leaf 1 ECX
  Sse3,
  Pclmulqdq,
  Monitor,
  Ssse3,
  Fma,
  Cx16,
  Pcid,
  Sse41,
  Sse42,
  X2apic,
  Movbe,
  Popcnt,
  TscDeadline,
  Aes,
  Xsave,
  Avx,
  F16c,
  Rdrand,
  Hypervisor,
  // leaf 1 EDX
  Fpu,
  Vme,
  De,
  Pse,
  Tsc,
  Msr,
  Pae,
  Mce,
  Cx8,
  Apic,
  Sep,
  Mtrr,
  Pge,
  Mca,
  Cmov,
  Pat,
  Pse36,
  Clfsh,
  Mmx,
  Fxsr,
  Sse,
  Sse2,
  Ss,
  Htt,
  // leaf 7
  Fsgsbase,
  TscAdjust,
  Bmi1,
  Avx2,
  FdpExcptnOnly,
  Smep,
  Bmi2,
  Erms,
  Invpcid,
  ZeroFcsFds,
  Rdseed,
  Adx,
  Smap,
  Clflushopt,
  Clwb,
  Sha,
  Umip,
  La57,
  Rdpid,
  Fsrm,
  ArchCapabilities,
  // leaf 0x80000001
  LahfLm,
  Abm,
  Prefetchw,
  Syscall,
  Nx,
  Pdpe1gb,
  Rdtscp,
  Lm,
  // leaf 0x80000007
  InvariantTsc,
  kCount,
};

inline constexpr unsigned kFeatureCount = static_cast<unsigned>(Feature::kCount);

// Where CPUID shows a feature.
enum class CpuidRegister : uint8_t { Eax, Ebx, Ecx, Edx };
struct FeatureInfo {
  Feature feature;
  uint32_t leaf;  // subleaf 0
  CpuidRegister reg;
  uint8_t bit;
  std::string_view name;  // as /proc/cpuinfo shows it, where it does
};
// Indexed by Feature.
std::span<const FeatureInfo> feature_table();

// Bits of XCR0, and the sizes of an XSAVE area (SDM 1 13.1 to 13.4): without and with the upper
// halves of the YMM registers.
inline constexpr uint64_t kXcr0X87 = 1, kXcr0Sse = 2, kXcr0Avx = 4;
inline constexpr uint32_t kXsaveLegacyBytes = 512, kXsaveHeaderBytes = 64,
                          kXsaveAvxOffset = kXsaveLegacyBytes + kXsaveHeaderBytes,
                          kXsaveAvxBytes = 256;
constexpr uint32_t xsave_area_bytes(uint64_t xcr0) {
  return kXsaveAvxOffset + ((xcr0 & kXcr0Avx) != 0 ? kXsaveAvxBytes : 0);
}

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  bool operator==(const CpuidResult&) const = default;
};

class CpuModel {
 public:
  // `name`: see names(). Unknown names are an error that lists the known ones.
  static Result<CpuModel> create(std::string_view name, unsigned vcpu_count);
  static std::vector<std::string_view> names();  // first: the default

  bool has(Feature feature) const {
    return ((features_[static_cast<unsigned>(feature) / 64] >>
             (static_cast<unsigned>(feature) % 64)) &
            1U) != 0;
  }
  // The static answer; OSXSAVE (leaf 1), the APIC enable bit, what follows from XCR0 (leaf 0xd) and
  // the like are the accelerator's.
  // Leaves out of range answer as the SDM says (the highest basic leaf's data is not imitated: 0).
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, VcpuId vcpu) const;

  std::string_view name() const { return name_; }
  unsigned phys_bits() const { return phys_bits_; }
  unsigned linear_bits() const { return 48; }
  // What XCR0 may hold.
  uint64_t xcr0_bits() const;
  // Those of x86-64-v3 that this model has; who runs them on the host's own instructions needs
  // the host to have them.
  std::vector<Feature> level3_features() const;
  // IA32_ARCH_CAPABILITIES, when the feature is there.
  uint64_t arch_capabilities() const;

 private:
  CpuModel() = default;
  void add(Feature feature) {
    features_[static_cast<unsigned>(feature) / 64] |= uint64_t{1}
                                                      << (static_cast<unsigned>(feature) % 64);
  }
  uint32_t feature_bits(uint32_t leaf, CpuidRegister reg) const;
  CpuidResult basic_leaf(uint32_t leaf, uint32_t subleaf, VcpuId vcpu) const;
  CpuidResult cache_leaf(uint32_t subleaf) const;
  CpuidResult topology_leaf(uint32_t subleaf, VcpuId vcpu) const;
  CpuidResult xsave_leaf(uint32_t subleaf) const;
  CpuidResult extended_leaf(uint32_t leaf) const;
  std::string name_;
  uint64_t features_[2] = {};
  unsigned phys_bits_ = 46;
  unsigned vcpu_count_ = 1;
};

}  // namespace trapeze
