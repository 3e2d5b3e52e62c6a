#include "accel/soft/system/return_frame.h"

#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/system/segments.h"

namespace trapeze::soft {

bool check_return_code(Cpu& cpu, const ReturnFrame& frame, Descriptor& code) {
  if (is_null_selector(frame.cs)) return fault(cpu, kGP, 0);
  if (!read_descriptor(cpu, frame.cs, kGP, code)) return false;
  const unsigned rpl = selector_rpl(frame.cs);
  const bool level_ok = code.is_conforming() ? code.dpl() <= rpl : code.dpl() == rpl;
  const bool size_ok = !is_long_mode(cpu) || (code.access() & (kSegL | kSegDb)) != (kSegL | kSegDb);
  if (!code.is_code() || rpl < cpu.cpl || !level_ok || !size_ok)
    return fault(cpu, kGP, selector_error(frame.cs));
  if (!code.is_present()) return fault(cpu, kNP, selector_error(frame.cs));
  const bool to_code64 = is_long_mode(cpu) && code.is_long_code();
  const bool rip_ok = to_code64 ? is_canonical(cpu, frame.rip)
                                : is_within_limit(code.segment(frame.cs), frame.rip, 1);
  if (!rip_ok) return fault(cpu, kGP, 0);
  return mark_accessed(cpu, frame.cs, code);
}

bool check_return_stack(Cpu& cpu, const ReturnFrame& frame, const Descriptor& code,
                        Segment& segment) {
  const unsigned rpl = selector_rpl(frame.cs);
  const bool to_code64 = is_long_mode(cpu) && code.is_long_code();
  if (is_null_selector(frame.ss) && to_code64 && rpl != 3) {
    if (selector_rpl(frame.ss) != rpl) return fault(cpu, kGP, 0);
    segment = null_stack_segment(rpl);
    return true;
  }
  return check_stack_segment(cpu, frame.ss, rpl, kGP, segment);
}

void enter_return_code(Cpu& cpu, const ReturnFrame& frame, const Descriptor& code) {
  cpu.seg[kCs] = code.segment(frame.cs);
  cpu.cpl = static_cast<uint8_t>(selector_rpl(frame.cs));
  cpu.rip = frame.rip;
}

void enter_return_stack(Cpu& cpu, const Segment& ss, uint64_t rsp) {
  cpu.seg[kSs] = ss;
  const bool to_code64 = is_long_mode(cpu) && (cpu.seg[kCs].access & kSegL) != 0;
  if (to_code64 || (ss.access & kSegDb) != 0) {
    cpu.gpr[kRsp] = rsp;
  } else {
    // A 16-bit stack takes SP only; what the handler left above it shows through, as on hardware.
    cpu.gpr[kRsp] = (cpu.gpr[kRsp] & ~uint64_t{0xffff}) | (rsp & 0xffffU);
  }
}

}  // namespace trapeze::soft
