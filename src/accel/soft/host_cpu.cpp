#include "accel/soft/host_cpu.h"

#include <cpuid.h>

namespace trapeze::soft {
namespace {

bool host_has(const FeatureInfo& info) {
  unsigned regs[4] = {};
  if (__get_cpuid_count(info.leaf, 0, &regs[0], &regs[1], &regs[2], &regs[3]) == 0) return false;
  return ((regs[static_cast<unsigned>(info.reg)] >> info.bit) & 1) != 0;
}

// XCR0, as the host's kernel has set it; 0 where it does not use XSAVE.
uint64_t host_xcr0() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kOsxsave = 1U << 27;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsxsave) == 0) return 0;
  asm("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return uint64_t{edx} << 32 | eax;
}

}  // namespace

std::string missing_host_features(const CpuModel& model) {
  std::string missing;
  for (const Feature feature : model.level3_features()) {
    const FeatureInfo& info = feature_table()[static_cast<size_t>(feature)];
    bool is_there = host_has(info);
    if (feature == Feature::Avx) is_there = is_there && (host_xcr0() & kXcr0Avx) != 0;
    if (is_there) continue;
    if (!missing.empty()) missing += ", ";
    missing += info.name;
  }
  return missing;
}

}  // namespace trapeze::soft
