// LLDT, LTR, SLDT, STR, VERR, VERW, LAR, LSL, ARPL (SDM 2A, 2B).
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/segments.h"

namespace trapeze::soft::system {
namespace {

constexpr uint64_t kCr4Umip = 1U << 11;

void set_zf(Cpu& cpu, bool value) {
  cpu.arith = static_cast<ArithmeticFlags>(value ? cpu.arith | kArithZf : cpu.arith & ~kArithZf);
}

// These do not exist in real-address and virtual-8086 mode.
bool require_protected(Cpu& cpu) {
  if (!is_real_or_vm86(cpu)) return true;
  raise(cpu, kUD);
  return false;
}

bool refuse_by_umip(Cpu& cpu) {
  if ((cpu.cr4 & kCr4Umip) == 0 || cpu.cpl == 0) return false;
  raise(cpu, kGP, 0);
  return true;
}

enum class Probe : uint8_t { Fault, Invisible, Visible };

// Reads the descriptor for the instructions that answer in ZF: what is out of the table or out of
// the caller's rights is "invisible", only page faults are faults.
Probe probe_descriptor(Cpu& cpu, uint16_t selector, Descriptor& descriptor) {
  uint64_t linear = 0;
  if (is_null_selector(selector) || !find_descriptor(cpu, selector, 8, linear))
    return Probe::Invisible;
  if (!read_system(cpu, linear, descriptor.low)) return Probe::Fault;
  if (descriptor.is_conforming()) return Probe::Visible;
  const bool visible = descriptor.dpl() >= cpu.cpl && descriptor.dpl() >= selector_rpl(selector);
  return visible ? Probe::Visible : Probe::Invisible;
}

// In IA-32e mode a system descriptor has 16 bytes, and its upper type field must be 0.
bool is_known_system_type(const Cpu& cpu, unsigned type, uint16_t types, uint16_t types_long) {
  return (((is_long_mode(cpu) ? types_long : types) >> type) & 1U) != 0;
}

Step verify(Cpu& cpu, const Insn& insn, bool for_write) {
  if (!require_protected(cpu)) return Step::Fault;
  uint16_t selector = 0;
  if (!load_word_operand(cpu, insn, insn.dst, selector)) return Step::Fault;
  Descriptor descriptor;
  const Probe probe = probe_descriptor(cpu, selector, descriptor);
  if (probe == Probe::Fault) return Step::Fault;
  const bool ok = probe == Probe::Visible && !descriptor.is_system() &&
                  (for_write ? descriptor.is_writable_data() : descriptor.is_readable());
  set_zf(cpu, ok);
  return Step::Next;
}

void set_result(Cpu& cpu, const Insn& insn, uint32_t value) {
  if (insn.width == 2) {
    set_reg<uint16_t>(cpu, insn.dst, static_cast<uint16_t>(value));
  } else {
    set_reg<uint32_t>(cpu, insn.dst, value);
  }
}

}  // namespace

bool load_word_operand(Cpu& cpu, const Insn& insn, uint8_t reg_slot, uint16_t& value) {
  if (insn.aux == kOperandMemory) return load(cpu, insn, value);
  value = reg<uint16_t>(cpu, reg_slot);
  return true;
}

Step store_word_operand(Cpu& cpu, const Insn& insn, uint64_t value) {
  if (insn.aux == kOperandMemory) {
    return store(cpu, insn, static_cast<uint16_t>(value)) ? Step::Next : Step::Fault;
  }
  switch (insn.width) {
    case 2:
      set_reg<uint16_t>(cpu, insn.dst, static_cast<uint16_t>(value));
      break;
    case 4:
      set_reg<uint32_t>(cpu, insn.dst, static_cast<uint32_t>(value));
      break;
    default:
      set_reg<uint64_t>(cpu, insn.dst, value);
      break;
  }
  return Step::Next;
}

Step lldt(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu) || !require_cpl0(cpu)) return Step::Fault;
  uint16_t selector = 0;
  if (!load_word_operand(cpu, insn, insn.dst, selector)) return Step::Fault;
  return load_ldtr(cpu, selector, kGP) ? Step::Next : Step::Fault;
}

Step ltr(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu) || !require_cpl0(cpu)) return Step::Fault;
  uint16_t selector = 0;
  if (!load_word_operand(cpu, insn, insn.dst, selector)) return Step::Fault;
  return load_tr(cpu, selector) ? Step::Next : Step::Fault;
}

Step sldt(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu) || refuse_by_umip(cpu)) return Step::Fault;
  return store_word_operand(cpu, insn, cpu.ldtr.selector);
}

Step str(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu) || refuse_by_umip(cpu)) return Step::Fault;
  return store_word_operand(cpu, insn, cpu.tr.selector);
}

Step verr(Cpu& cpu, const Insn& insn) { return verify(cpu, insn, false); }
Step verw(Cpu& cpu, const Insn& insn) { return verify(cpu, insn, true); }

Step lar(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu)) return Step::Fault;
  uint16_t selector = 0;
  if (!load_word_operand(cpu, insn, insn.src, selector)) return Step::Fault;
  Descriptor descriptor;
  const Probe probe = probe_descriptor(cpu, selector, descriptor);
  if (probe == Probe::Fault) return Step::Fault;
  bool ok = probe == Probe::Visible;
  if (ok && descriptor.is_system()) {
    // SDM 2A table 3-53: TSS, LDT, call and task gates; in IA-32e mode LDT, TSS and call gate.
    ok = is_known_system_type(cpu, descriptor.type(), 0x1a3e, 0x1a04);
  }
  if (ok) set_result(cpu, insn, static_cast<uint32_t>(descriptor.low >> 32) & 0x00ffff00U);
  set_zf(cpu, ok);
  return Step::Next;
}

Step lsl(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu)) return Step::Fault;
  uint16_t selector = 0;
  if (!load_word_operand(cpu, insn, insn.src, selector)) return Step::Fault;
  Descriptor descriptor;
  const Probe probe = probe_descriptor(cpu, selector, descriptor);
  if (probe == Probe::Fault) return Step::Fault;
  bool ok = probe == Probe::Visible;
  if (ok && descriptor.is_system()) {
    // SDM 2A table 3-56: TSS and LDT.
    ok = is_known_system_type(cpu, descriptor.type(), 0x0a0e, 0x0a04);
  }
  if (ok) set_result(cpu, insn, descriptor.limit());
  set_zf(cpu, ok);
  return Step::Next;
}

Step arpl(Cpu& cpu, const Insn& insn) {
  if (!require_protected(cpu)) return Step::Fault;
  const unsigned wanted = reg<uint16_t>(cpu, insn.src) & 3U;
  bool raised = false;
  if (insn.aux == kOperandMemory) {
    const bool ok = modify<uint16_t>(cpu, insn, [&](uint16_t old) {
      raised = (old & 3U) < wanted;
      return static_cast<uint16_t>(raised ? (old & 0xfffcU) | wanted : old);
    });
    if (!ok) return Step::Fault;
  } else {
    const uint16_t old = reg<uint16_t>(cpu, insn.dst);
    raised = (old & 3U) < wanted;
    if (raised) set_reg(cpu, insn.dst, static_cast<uint16_t>((old & 0xfffcU) | wanted));
  }
  set_zf(cpu, raised);
  return Step::Next;
}

}  // namespace trapeze::soft::system
