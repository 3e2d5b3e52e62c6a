#include "accel/soft/mmu/segment_access.h"

#include "accel/soft/mmu/access.h"

namespace trapeze::soft {
namespace {

// Type check of SDM 3A 5.5; real-address and virtual-8086 mode have none (a store through CS works
// there).
bool may_access(const Segment& segment, Access access) {
  const bool is_code = (segment.access & kSegCode) != 0;
  const bool has_right = (segment.access & kSegWritable) != 0;
  if (access == Access::Read) return !is_code || has_right;
  return !is_code && has_right;
}

}  // namespace

bool segment_to_linear(Cpu& cpu, uint8_t seg, uint64_t offset, uint64_t size, Access access,
                       uint64_t& linear) {
  if (is_code64(cpu)) {
    linear = cpu.linear_base[seg] + offset;
    return true;
  }
  const Segment& segment = cpu.seg[seg];
  const bool type_ok = is_real_or_vm86(cpu) || (is_usable(segment) && may_access(segment, access));
  if (!type_ok || !is_within_limit(segment, offset, size)) [[unlikely]] {
    raise(cpu, seg == kSs ? kSS : kGP, 0);
    return false;
  }
  linear = (segment.base + offset) & 0xffff'ffffU;
  return true;
}

bool slow_linear_address(Cpu& cpu, const Insn& insn, uint64_t size, Access access,
                         uint64_t& linear) {
  return segment_to_linear(cpu, insn.seg, effective_address(cpu, insn), size, access, linear);
}

}  // namespace trapeze::soft
