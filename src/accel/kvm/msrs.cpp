#include "accel/kvm/msrs.h"

#include <algorithm>
#include <iterator>

#include "arch/x86/msr_travel.h"

namespace trapeze::kvm {
namespace {

struct MsrRange {
  uint32_t first;
  uint32_t last;
  constexpr bool contains(uint32_t index) const { return index >= first && index <= last; }
};

// Listed by KVM, but no state of the board: its CPUID offers no performance counters, no nested
// virtualization, no Hyper-V, no SMM, no processor trace. Or told in the registers: APIC base,
// EFER.
constexpr MsrRange kLeftOut[] = {
    {0x1b, 0x1b},              // IA32_APIC_BASE
    {0xc1, 0xc8},              // counters
    {0x186, 0x18d},            // event selectors
    {0x34, 0x34},              // SMI_COUNT
    {0x9e, 0x9e},              // SMBASE
    {0x309, 0x30b},            // fixed counters
    {0x345, 0x345},            // PERF_CAPABILITIES, read-only
    {0x38d, 0x390},            // counter control
    {0x3f1, 0x3f1},            // PEBS
    {0x4c1, 0x4c8},            // full-width counters
    {0x480, 0x491},            // VMX capabilities
    {0x560, 0x587},            // processor trace
    {0x600, 0x600},            // DS_AREA
    {0x40000000, 0x400000ff},  // Hyper-V
    {0xc0000080, 0xc0000080},  // EFER
    {0xc0010000, 0xc0010007},  // AMD counters
    {0xc0010200, 0xc001020b},  // AMD counters
    {0xc0010117, 0xc0010117},  // VM_HSAVE_PA
    {0xc0000104, 0xc0000104},  // TSC_RATIO, of nested guests
    {0xc0000300, 0xc0000302},  // AMD counter control
};

// Not in every kernel's list, but there.
constexpr uint32_t kUnlisted[] = {
    0x200, 0x201, 0x202, 0x203, 0x204,          0x205, 0x206, 0x207,  // variable MTRRs
    0x208, 0x209, 0x20a, 0x20b, 0x20c,          0x20d, 0x20e, 0x20f,
    0x250, 0x258, 0x259, 0x268, 0x269,          0x26a, 0x26b, 0x26c,  // fixed MTRRs
    0x26d, 0x26e, 0x26f, 0x277, kMsrMtrrDefType};

// Besides those that may stay behind on any way (arch/x86/msr_travel.h, among them FEATURE_CONTROL
// and ARCH_CAPABILITIES, which PVM hosts refuse): counters, which the guest's CPUID does not offer.
constexpr MsrRange kRefusable[] = {
    {0xc0, 0xc8},              // counters
    {0x186, 0x18d},            //
    {0x309, 0x30b},            //
    {0x38d, 0x390},            //
    {0xc0010000, 0xc0010007},  // AMD counters, logged and ignored elsewhere too
    {0xc0010200, 0xc001020b},  //
};

bool is_in(std::span<const MsrRange> ranges, uint32_t index) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const MsrRange& range) { return range.contains(index); });
}

// Lower goes first.
int rank(uint32_t index) {
  constexpr MsrRange kKvmclock{0x4b564d00, 0x4b564d07};
  constexpr MsrRange kPvm{kMsrPvmFirst, kMsrPvmLast};
  constexpr MsrRange kOldKvmclock{0x11, 0x12};
  if (index == kMsrTsc || index == kMsrTscAdjust) return 0;
  if (kKvmclock.contains(index) || kOldKvmclock.contains(index)) return 2;
  if (index == kMsrPvmVcpuStruct) return 4;  // pins a page of the guest, and uses the rest
  if (kPvm.contains(index)) return 3;
  if (index == kMsrTscDeadline) return 5;
  return 1;
}

}  // namespace

std::vector<uint32_t> msrs_to_save(std::span<const uint32_t> listed, HostKind kind) {
  std::vector<uint32_t> indices(listed.begin(), listed.end());
  indices.insert(indices.end(), std::begin(kUnlisted), std::end(kUnlisted));
  if (kind == HostKind::Pvm) {
    for (uint32_t index = kMsrPvmFirst; index <= kMsrPvmLast; ++index) indices.push_back(index);
  }
  std::erase_if(indices, [](uint32_t index) { return is_in(kLeftOut, index); });
  std::sort(indices.begin(), indices.end());
  indices.erase(std::unique(indices.begin(), indices.end()), indices.end());
  return indices;
}

void sort_for_restore(std::vector<MsrValue>& msrs) {
  std::stable_sort(msrs.begin(), msrs.end(), [](const MsrValue& a, const MsrValue& b) {
    return rank(a.index) < rank(b.index);
  });
}

bool may_be_refused(uint32_t index, uint64_t value) {
  // A clock is never left behind: zero is a time like any other.
  if (index == kMsrTsc) return false;
  return is_in(kRefusable, index) || may_stay_behind(index, value);
}

}  // namespace trapeze::kvm
