// Which MSRs make up a vCPU's state under KVM, in which order they are restored, and which refusals
// are harmless. Pure functions over KVM_GET_MSR_INDEX_LIST.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "accel/kvm/device.h"
#include "arch/x86/vcpu_state.h"

namespace trapeze::kvm {

inline constexpr uint32_t kMsrTsc = 0x10;
inline constexpr uint32_t kMsrTscAdjust = 0x3b;
inline constexpr uint32_t kMsrMiscEnable = 0x1a0;
inline constexpr uint32_t kMsrMtrrDefType = 0x2ff;
inline constexpr uint32_t kMsrTscDeadline = 0x6e0;

// PVM's own (Linux arch/x86/include/uapi/asm/pvm_para.h): some hosts have them without listing
// them.
inline constexpr uint32_t kMsrPvmFirst = 0x4b564df0;
inline constexpr uint32_t kMsrPvmLast = 0x4b564df6;
inline constexpr uint32_t kMsrPvmVcpuStruct = 0x4b564df1;

// The MSRs to save: those of the list that are state and not told elsewhere, and some that KVM has
// without listing them. `kind` Pvm adds PVM's.
std::vector<uint32_t> msrs_to_save(std::span<const uint32_t> listed, HostKind kind);

// The order in which they are written: the TSC before what depends on it, PVM's VCPU_STRUCT and the
// kvmclock pages last (KVM writes to guest memory then), the TSC deadline after the rest.
void sort_for_restore(std::vector<MsrValue>& msrs);

// KVM_SET_MSRS stops at the first MSR that it refuses. These may be refused: they have no effect
// on a guest that lives without them, and some hosts list what they do not take.
bool may_be_refused(uint32_t index, uint64_t value);

}  // namespace trapeze::kvm
