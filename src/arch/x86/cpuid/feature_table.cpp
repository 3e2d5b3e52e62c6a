#include <array>

#include "arch/x86/cpuid/cpu_model.h"

namespace trapeze {
namespace {

constexpr auto kEcx = CpuidRegister::Ecx;
constexpr auto kEdx = CpuidRegister::Edx;
constexpr auto kEbx = CpuidRegister::Ebx;

// SDM 2A table 3-8 and the tables behind it.
constexpr std::array<FeatureInfo, kFeatureCount> kTable{{
    {Feature::Sse3, 1, kEcx, 0, "pni"},
    {Feature::Pclmulqdq, 1, kEcx, 1, "pclmulqdq"},
    {Feature::Monitor, 1, kEcx, 3, "monitor"},
    {Feature::Ssse3, 1, kEcx, 9, "ssse3"},
    {Feature::Fma, 1, kEcx, 12, "fma"},
    {Feature::Cx16, 1, kEcx, 13, "cx16"},
    {Feature::Pcid, 1, kEcx, 17, "pcid"},
    {Feature::Sse41, 1, kEcx, 19, "sse4_1"},
    {Feature::Sse42, 1, kEcx, 20, "sse4_2"},
    {Feature::X2apic, 1, kEcx, 21, "x2apic"},
    {Feature::Movbe, 1, kEcx, 22, "movbe"},
    {Feature::Popcnt, 1, kEcx, 23, "popcnt"},
    {Feature::TscDeadline, 1, kEcx, 24, "tsc_deadline_timer"},
    {Feature::Aes, 1, kEcx, 25, "aes"},
    {Feature::Xsave, 1, kEcx, 26, "xsave"},
    {Feature::Avx, 1, kEcx, 28, "avx"},
    {Feature::F16c, 1, kEcx, 29, "f16c"},
    {Feature::Rdrand, 1, kEcx, 30, "rdrand"},
    {Feature::Hypervisor, 1, kEcx, 31, "hypervisor"},
    {Feature::Fpu, 1, kEdx, 0, "fpu"},
    {Feature::Vme, 1, kEdx, 1, "vme"},
    {Feature::De, 1, kEdx, 2, "de"},
    {Feature::Pse, 1, kEdx, 3, "pse"},
    {Feature::Tsc, 1, kEdx, 4, "tsc"},
    {Feature::Msr, 1, kEdx, 5, "msr"},
    {Feature::Pae, 1, kEdx, 6, "pae"},
    {Feature::Mce, 1, kEdx, 7, "mce"},
    {Feature::Cx8, 1, kEdx, 8, "cx8"},
    {Feature::Apic, 1, kEdx, 9, "apic"},
    {Feature::Sep, 1, kEdx, 11, "sep"},
    {Feature::Mtrr, 1, kEdx, 12, "mtrr"},
    {Feature::Pge, 1, kEdx, 13, "pge"},
    {Feature::Mca, 1, kEdx, 14, "mca"},
    {Feature::Cmov, 1, kEdx, 15, "cmov"},
    {Feature::Pat, 1, kEdx, 16, "pat"},
    {Feature::Pse36, 1, kEdx, 17, "pse36"},
    {Feature::Clfsh, 1, kEdx, 19, "clflush"},
    {Feature::Mmx, 1, kEdx, 23, "mmx"},
    {Feature::Fxsr, 1, kEdx, 24, "fxsr"},
    {Feature::Sse, 1, kEdx, 25, "sse"},
    {Feature::Sse2, 1, kEdx, 26, "sse2"},
    {Feature::Ss, 1, kEdx, 27, "ss"},
    {Feature::Htt, 1, kEdx, 28, "ht"},
    {Feature::Fsgsbase, 7, kEbx, 0, "fsgsbase"},
    {Feature::TscAdjust, 7, kEbx, 1, "tsc_adjust"},
    {Feature::Bmi1, 7, kEbx, 3, "bmi1"},
    {Feature::Avx2, 7, kEbx, 5, "avx2"},
    {Feature::FdpExcptnOnly, 7, kEbx, 6, "fdp_excptn_only"},
    {Feature::Smep, 7, kEbx, 7, "smep"},
    {Feature::Bmi2, 7, kEbx, 8, "bmi2"},
    {Feature::Erms, 7, kEbx, 9, "erms"},
    {Feature::Invpcid, 7, kEbx, 10, "invpcid"},
    {Feature::ZeroFcsFds, 7, kEbx, 13, "zero_fcs_fds"},
    {Feature::Rdseed, 7, kEbx, 18, "rdseed"},
    {Feature::Adx, 7, kEbx, 19, "adx"},
    {Feature::Smap, 7, kEbx, 20, "smap"},
    {Feature::Clflushopt, 7, kEbx, 23, "clflushopt"},
    {Feature::Clwb, 7, kEbx, 24, "clwb"},
    {Feature::Sha, 7, kEbx, 29, "sha_ni"},
    {Feature::Umip, 7, kEcx, 2, "umip"},
    {Feature::La57, 7, kEcx, 16, "la57"},
    {Feature::Rdpid, 7, kEcx, 22, "rdpid"},
    {Feature::Fsrm, 7, kEdx, 4, "fsrm"},
    {Feature::ArchCapabilities, 7, kEdx, 29, "arch_capabilities"},
    {Feature::LahfLm, 0x80000001, kEcx, 0, "lahf_lm"},
    {Feature::Abm, 0x80000001, kEcx, 5, "abm"},
    {Feature::Prefetchw, 0x80000001, kEcx, 8, "3dnowprefetch"},
    {Feature::Syscall, 0x80000001, kEdx, 11, "syscall"},
    {Feature::Nx, 0x80000001, kEdx, 20, "nx"},
    {Feature::Pdpe1gb, 0x80000001, kEdx, 26, "pdpe1gb"},
    {Feature::Rdtscp, 0x80000001, kEdx, 27, "rdtscp"},
    {Feature::Lm, 0x80000001, kEdx, 29, "lm"},
    {Feature::InvariantTsc, 0x80000007, kEdx, 8, "constant_tsc"},
}};

constexpr bool is_in_order() {
  for (unsigned i = 0; i < kFeatureCount; ++i)
    if (static_cast<unsigned>(kTable[i].feature) != i) return false;
  return true;
}
static_assert(is_in_order(), "one row for each Feature, in the order of the enum");

}  // namespace

std::span<const FeatureInfo> feature_table() { return kTable; }

}  // namespace trapeze
