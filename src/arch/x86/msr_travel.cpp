#include "arch/x86/msr_travel.h"

#include <algorithm>
#include <iterator>

namespace trapeze {
namespace {

// SDM 4 table 2-2; AMD64 Architecture Programmer's Manual 2, appendix A.
constexpr uint32_t kNotMissed[] = {
    0x17,        // PLATFORM_ID
    0x34,        // SMI_COUNT: no board of ours has SMM
    0x3a,        // FEATURE_CONTROL: locked by the firmware, and there is none
    0x8b,        // BIOS_SIGN_ID: microcode revision
    0xce,        // PLATFORM_INFO
    0xcf,        // CORE_CAPABILITIES
    0xfe,        // MTRRCAP
    0x10a,       // ARCH_CAPABILITIES: which of its faults the CPU does not have
    0x179,       // MCG_CAP
    0x17b,       // MCG_CTL: all ones where it is there; banks that report nothing
    0x345,       // PERF_CAPABILITIES
    0x4b564d05,  // KVM_POLL_CONTROL: whether the host polls when the guest halts
    0xc0010015,  // HWCR: set by the firmware
    0xc001001f,  // NB_CFG
    0xc0010064,  // P-state definition
    0xc0011029,  // DE_CFG: LFENCE serialises, or not
};

}  // namespace

bool may_stay_behind(uint32_t index, uint64_t value) {
  if (value == 0) return true;
  return std::find(std::begin(kNotMissed), std::end(kNotMissed), index) != std::end(kNotMissed);
}

}  // namespace trapeze
