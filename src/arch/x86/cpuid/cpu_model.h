// CpuModel: what a virtual CPU says of itself by CPUID, and so which instructions it has.
// The software engine takes it as it is; KVM filters it by what the host supports.
#pragma once

#include <cstdint>
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
  Smep,
  Bmi2,
  Erms,
  Invpcid,
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
  // The static answer; OSXSAVE (leaf 1), the APIC enable bit and the like are the accelerator's.
  // Leaves out of range answer as the SDM says (the highest basic leaf's data is not imitated: 0).
  CpuidResult cpuid(uint32_t leaf, uint32_t subleaf, VcpuId vcpu) const;

  std::string_view name() const { return name_; }
  unsigned phys_bits() const { return phys_bits_; }
  unsigned linear_bits() const { return 48; }

 private:
  CpuModel() = default;
  std::string name_;
  uint64_t features_[2] = {};
  unsigned phys_bits_ = 46;
  unsigned vcpu_count_ = 1;
};

}  // namespace trapeze
