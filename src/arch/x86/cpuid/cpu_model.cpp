#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze {
namespace {

// x86-64 psABI, "micro-architecture levels": level 1, and what every kernel takes for granted.
constexpr Feature kLevel1[] = {
    Feature::Fpu,
    Feature::De,
    Feature::Pse,
    Feature::Tsc,
    Feature::Msr,
    Feature::Pae,
    Feature::Mce,
    Feature::Cx8,
    Feature::Apic,
    Feature::Sep,
    Feature::Mtrr,
    Feature::Pge,
    Feature::Mca,
    Feature::Cmov,
    Feature::Pat,
    Feature::Pse36,
    Feature::Clfsh,
    Feature::Mmx,
    Feature::Fxsr,
    Feature::Sse,
    Feature::Sse2,
    Feature::Ss,
    Feature::Hypervisor,
    Feature::Nx,
    Feature::Lm,
    Feature::Syscall,
    // How the engine has the x87 pointers, as CPUs have had them for a decade.
    Feature::FdpExcptnOnly,
    Feature::ZeroFcsFds,
};
// Level 2.
constexpr Feature kLevel2[] = {
    Feature::Cx16,  Feature::LahfLm, Feature::Popcnt, Feature::Sse3,
    Feature::Sse41, Feature::Sse42,  Feature::Ssse3,
};
// Level 3.
constexpr Feature kLevel3[] = {
    Feature::Avx, Feature::Avx2, Feature::Bmi1,  Feature::Bmi2,  Feature::F16c,
    Feature::Fma, Feature::Abm,  Feature::Movbe, Feature::Xsave,
};
// What a kernel likes to have and levels do not tell: cheaper address space switches and string
// operations, protection, clocks that need no calibration.
constexpr Feature kSystem[] = {
    Feature::Fsgsbase,    Feature::Smep,      Feature::Smap,         Feature::Umip,
    Feature::Pcid,        Feature::Invpcid,   Feature::Pdpe1gb,      Feature::Rdtscp,
    Feature::Rdpid,       Feature::Erms,      Feature::Fsrm,         Feature::X2apic,
    Feature::TscDeadline, Feature::TscAdjust, Feature::InvariantTsc, Feature::Rdrand,
    Feature::Rdseed,      Feature::Movbe,     Feature::Clflushopt,   Feature::ArchCapabilities,
    Feature::Prefetchw,
};

enum Parts : unsigned { kPartLevel2 = 1, kPartSystem = 2, kPartLevel3 = 4 };

struct ModelRow {
  std::string_view name;
  unsigned parts;
};
constexpr ModelRow kModels[] = {
    {"x86-64-v2", kPartLevel2 | kPartSystem},  // the default
    // Its vector instructions are run by the host's own: see level3_features().
    {"x86-64-v3", kPartLevel2 | kPartLevel3 | kPartSystem},
    {"x86-64", 0},  // the bare baseline, to see what software does there
};

constexpr unsigned kMaxVcpus = 254;  // xAPIC IDs

// Bits of IA32_ARCH_CAPABILITIES (SDM 4 table 2-2). Guest code never runs speculatively in a way
// that its own mitigations could stop, so all of them would be pure cost.
constexpr uint64_t kRdclNo = 1U << 0, kSkipL1dflVmentry = 1U << 3, kSsbNo = 1U << 4,
                   kMdsNo = 1U << 5, kIfPschangeMcNo = 1U << 6, kTaaNo = 1U << 8,
                   kSbdrSsdpNo = 1U << 13, kFbsdpNo = 1U << 14, kPsdpNo = 1U << 15,
                   kBhiNo = 1U << 20, kPbrsbNo = 1U << 24, kGdsNo = 1U << 26, kRfdsNo = 1U << 27;

std::string known_names() {
  std::string names;
  for (const ModelRow& row : kModels) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

}  // namespace

Result<CpuModel> CpuModel::create(std::string_view name, unsigned vcpu_count) {
  if (vcpu_count == 0 || vcpu_count > kMaxVcpus) {
    return fail("{} vCPUs: a virtual machine has 1 to {}", vcpu_count, kMaxVcpus);
  }
  for (const ModelRow& row : kModels) {
    if (row.name != name) continue;
    CpuModel model;
    model.name_ = name;
    model.vcpu_count_ = vcpu_count;
    for (Feature feature : kLevel1) model.add(feature);
    if ((row.parts & kPartLevel2) != 0) {
      for (Feature feature : kLevel2) model.add(feature);
    }
    if ((row.parts & kPartLevel3) != 0) {
      for (Feature feature : kLevel3) model.add(feature);
    }
    if ((row.parts & kPartSystem) != 0) {
      for (Feature feature : kSystem) model.add(feature);
    }
    if (vcpu_count > 1) model.add(Feature::Htt);
    return model;
  }
  return fail("unknown CPU model \"{}\"; known are: {}", name, known_names());
}

std::vector<std::string_view> CpuModel::names() {
  std::vector<std::string_view> names;
  for (const ModelRow& row : kModels) names.push_back(row.name);
  return names;
}

uint64_t CpuModel::xcr0_bits() const {
  if (!has(Feature::Xsave)) return kXcr0X87;
  return kXcr0X87 | kXcr0Sse | (has(Feature::Avx) ? kXcr0Avx : 0);
}

std::vector<Feature> CpuModel::level3_features() const {
  std::vector<Feature> features;
  for (const Feature feature : kLevel3) {
    if (has(feature) && feature != Feature::Movbe) features.push_back(feature);
  }
  return features;
}

uint64_t CpuModel::arch_capabilities() const {
  return kRdclNo | kSkipL1dflVmentry | kSsbNo | kMdsNo | kIfPschangeMcNo | kTaaNo | kSbdrSsdpNo |
         kFbsdpNo | kPsdpNo | kBhiNo | kPbrsbNo | kGdsNo | kRfdsNo;
}

}  // namespace trapeze
