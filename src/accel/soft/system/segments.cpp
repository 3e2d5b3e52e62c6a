#include "accel/soft/system/segments.h"

#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/mode.h"

namespace trapeze::soft {

Segment null_segment(uint16_t selector) { return {0, 0, kSegmentUnusable, selector}; }

Segment null_stack_segment(unsigned cpl) {
  return {0, 0, kSegmentUnusable | (cpl << 5), static_cast<uint16_t>(cpl)};
}

Segment vm86_segment(uint16_t selector) {
  return {static_cast<uint64_t>(selector) << 4, 0xffff, 0xf3, selector};
}

void load_real_segment(Cpu& cpu, unsigned seg, uint16_t selector) {
  Segment& segment = cpu.seg[seg];
  if (is_vm86(cpu)) {
    segment = vm86_segment(selector);
    return;
  }
  // Limit and attributes stay as they are: "unreal mode" lives from that.
  if (!is_usable(segment)) segment = {0, 0xffff, 0x93, 0};
  segment.selector = selector;
  segment.base = static_cast<uint64_t>(selector) << 4;
}

bool check_stack_segment(Cpu& cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                         Segment& segment) {
  if (is_null_selector(selector)) return fault(cpu, vector, 0);
  Descriptor descriptor;
  if (!read_descriptor(cpu, selector, vector, descriptor)) return false;
  if (selector_rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data())
    return fault(cpu, vector, selector_error(selector));
  if (!descriptor.is_present()) return fault(cpu, kSS, selector_error(selector));
  if (!mark_accessed(cpu, selector, descriptor)) return false;
  segment = descriptor.segment(selector);
  return true;
}

bool check_data_segment(Cpu& cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                        Segment& segment) {
  if (is_null_selector(selector)) {
    segment = null_segment(selector);
    return true;
  }
  Descriptor descriptor;
  if (!read_descriptor(cpu, selector, vector, descriptor)) return false;
  if (descriptor.is_system() || !descriptor.is_readable())
    return fault(cpu, vector, selector_error(selector));
  if (!descriptor.is_conforming()) {
    if (selector_rpl(selector) > descriptor.dpl() || cpl > descriptor.dpl())
      return fault(cpu, vector, selector_error(selector));
  }
  if (!descriptor.is_present()) return fault(cpu, kNP, selector_error(selector));
  if (!mark_accessed(cpu, selector, descriptor)) return false;
  segment = descriptor.segment(selector);
  return true;
}

bool load_data_segment(Cpu& cpu, unsigned seg, uint16_t selector) {
  if (is_real_or_vm86(cpu)) {
    load_real_segment(cpu, seg, selector);
    update_mode(cpu);
    return true;
  }
  Segment segment;
  if (seg != kSs) {
    if (!check_data_segment(cpu, selector, cpu.cpl, kGP, segment)) return false;
  } else if (is_null_selector(selector) && is_code64(cpu) && cpu.cpl < 3 &&
             selector_rpl(selector) == cpu.cpl) {
    segment = null_stack_segment(cpu.cpl);
  } else if (!check_stack_segment(cpu, selector, cpu.cpl, kGP, segment)) {
    return false;
  }
  cpu.seg[seg] = segment;
  update_mode(cpu);
  return true;
}

void drop_inner_segments(Cpu& cpu, unsigned new_cpl) {
  for (unsigned seg : {kEs, kDs, kFs, kGs}) {
    Segment& segment = cpu.seg[seg];
    const bool is_conforming_code =
        (segment.access & (kSegCode | kSegDown)) == (kSegCode | kSegDown);
    if (!is_usable(segment)) {
      // A null selector keeps its base: FS and GS bases survive a return to user mode.
      continue;
    }
    if (!is_conforming_code && segment_dpl(segment.access) < new_cpl) {
      const uint64_t base = segment.base;
      segment = null_segment(0);
      // The hidden base of FS and GS is what WRMSR wrote; only the selector is taken away.
      if (is_long_mode(cpu) && (seg == kFs || seg == kGs)) segment.base = base;
    }
  }
}

bool load_ldtr(Cpu& cpu, uint16_t selector, uint8_t vector) {
  if (is_null_selector(selector)) {
    cpu.ldtr = null_segment(selector);
    return true;
  }
  if ((selector & 4U) != 0) return fault(cpu, vector, selector_error(selector));
  Descriptor descriptor;
  if (!read_system_descriptor(cpu, selector, vector, descriptor)) return false;
  if (!descriptor.is_system() || descriptor.type() != kTypeLdt)
    return fault(cpu, vector, selector_error(selector));
  if (!descriptor.is_present()) {
    // LLDT: #NP; a task switch: #TS (SDM 3A table 7-1).
    return fault(cpu, vector == kTS ? kTS : kNP, selector_error(selector));
  }
  Segment segment = descriptor.segment(selector);
  if (is_long_mode(cpu)) {
    segment.base = descriptor.base64();
    if (!is_canonical(cpu, segment.base)) return fault(cpu, vector, selector_error(selector));
  }
  cpu.ldtr = segment;
  return true;
}

bool load_tr(Cpu& cpu, uint16_t selector) {
  if (is_null_selector(selector)) return fault(cpu, kGP, 0);
  if ((selector & 4U) != 0) return fault(cpu, kGP, selector_error(selector));
  Descriptor descriptor;
  if (!read_system_descriptor(cpu, selector, kGP, descriptor)) return false;
  const bool type_ok =
      descriptor.is_system() &&
      (descriptor.type() == kTypeTss32 || (descriptor.type() == kTypeTss16 && !is_long_mode(cpu)));
  // In IA-32e mode, bits 8..12 of the last dword must be clear (SDM 3A figure 7-4).
  const bool upper_ok = !is_long_mode(cpu) || ((descriptor.high >> 40) & 0x1fU) == 0;
  if (!type_ok || !upper_ok) return fault(cpu, kGP, selector_error(selector));
  if (!descriptor.is_present()) return fault(cpu, kNP, selector_error(selector));
  Segment segment = descriptor.segment(selector);
  if (is_long_mode(cpu)) {
    segment.base = descriptor.base64();
    if (!is_canonical(cpu, segment.base)) return fault(cpu, kGP, selector_error(selector));
  }
  if (!mark_busy(cpu, selector, true)) return false;
  segment.access |= 2;  // busy
  cpu.tr = segment;
  return true;
}

}  // namespace trapeze::soft
