#include "accel/soft/system/control.h"

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/mode.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kEferLme = 1U << 8, kEferLma = 1U << 10;
constexpr uint64_t kCr0Known = kCr0Pe | kCr0Mp | kCr0Em | kCr0Ts | kCr0Et | kCr0Ne | kCr0Wp |
                               kCr0Am | kCr0Nw | kCr0Cd | kCr0Pg;
constexpr uint64_t kCr3NoFlush = uint64_t{1} << 63;

bool is_pae_legacy(uint64_t cr0, uint64_t cr4, uint64_t efer) {
  return (cr0 & kCr0Pg) != 0 && (cr4 & kCr4Pae) != 0 && (efer & kEferLma) == 0;
}

// Entering IA-32e mode needs PAE, a 16- or 32-bit code segment and a 32-bit TSS (SDM 3A 9.8.5).
bool may_activate_long_mode(const Cpu& cpu) {
  return (cpu.cr4 & kCr4Pae) != 0 && (cpu.seg[kCs].access & kSegL) == 0;
}

bool cr0_value_ok(const Cpu& cpu, uint64_t value) {
  if ((value >> 32) != 0) return false;
  if ((value & kCr0Pg) != 0 && (value & kCr0Pe) == 0) return false;
  if ((value & kCr0Nw) != 0 && (value & kCr0Cd) == 0) return false;
  const bool pg_rises = (value & ~cpu.cr0 & kCr0Pg) != 0;
  const bool pg_falls = (~value & cpu.cr0 & kCr0Pg) != 0;
  if (pg_rises && (cpu.efer & kEferLme) != 0 && !may_activate_long_mode(cpu)) return false;
  // Paging cannot be turned off in 64-bit mode, nor with PCIDs in use (SDM 3A 4.10.1).
  if (pg_falls && (is_code64(cpu) || (cpu.cr4 & kCr4Pcide) != 0)) return false;
  return true;
}

}  // namespace

uint64_t offered_cr4(const Cpu& cpu) {
  struct Row {
    Feature feature;
    uint64_t bits;
  };
  constexpr Row kRows[] = {
      {Feature::Vme, kCr4Vme | kCr4Pvi},
      {Feature::Tsc, kCr4Tsd},
      {Feature::De, kCr4De},
      {Feature::Pse, kCr4Pse},
      {Feature::Pae, kCr4Pae},
      {Feature::Mce, kCr4Mce},
      {Feature::Pge, kCr4Pge},
      {Feature::Fxsr, kCr4Osfxsr},
      {Feature::Sse, kCr4Osxmmexcpt},
      {Feature::Umip, kCr4Umip},
      {Feature::Fsgsbase, kCr4Fsgsbase},
      {Feature::Pcid, kCr4Pcide},
      {Feature::Xsave, kCr4Osxsave},
      {Feature::Smep, kCr4Smep},
      {Feature::Smap, kCr4Smap},
  };
  uint64_t bits = kCr4Pce;
  for (const Row& row : kRows)
    if (cpu.env->model->has(row.feature)) bits |= row.bits;
  return bits;
}

bool is_valid_xcr0(const Cpu& cpu, uint64_t value) {
  if ((value & kXcr0X87) == 0 || (value & ~cpu.env->model->xcr0_bits()) != 0) return false;
  return (value & kXcr0Avx) == 0 || (value & kXcr0Sse) != 0;
}

bool write_cr0(Cpu& cpu, uint64_t value) {
  if (!cr0_value_ok(cpu, value)) return fault(cpu, kGP, 0);
  value = (value & kCr0Known) | kCr0Et;  // reserved bits are ignored, ET is 1
  const uint64_t old = cpu.cr0;
  const uint64_t changed = value ^ old;
  const bool pg_rises = (value & changed & kCr0Pg) != 0;
  const bool long_mode = pg_rises && (cpu.efer & kEferLme) != 0;
  if (pg_rises && !long_mode && (cpu.cr4 & kCr4Pae) != 0) {
    if (!load_pdptes(cpu, cpu.cr3)) return false;
  }
  if ((changed & kCr0Pg) != 0) {
    cpu.efer = long_mode ? cpu.efer | kEferLma : cpu.efer & ~kEferLma;
  }
  cpu.cr0 = value;
  if ((changed & kCr0Pe) != 0) cpu.cpl = 0;  // MOV CR0 is for CPL 0, and real mode is CPL 0
  if ((changed & (kCr0Pg | kCr0Pe)) != 0) {
    flush_tlb(cpu);
  } else if ((changed & value & kCr0Wp) != 0) {
    drop_write_tags(cpu, {});  // pages that only the missing WP let supervisors write
  }
  update_mode(cpu);
  return true;
}

bool write_cr3(Cpu& cpu, uint64_t value) {
  const bool pcide = (cpu.cr4 & kCr4Pcide) != 0;
  const bool keep = pcide && (value & kCr3NoFlush) != 0;
  if (keep) value &= ~kCr3NoFlush;
  if (is_long_mode(cpu)) {
    if ((value >> cpu.env->model->phys_bits()) != 0) return fault(cpu, kGP, 0);
  } else if (is_pae_legacy(cpu.cr0, cpu.cr4, cpu.efer)) {
    if (!load_pdptes(cpu, value)) return false;
  }
  load_cr3(cpu, value, keep);
  return true;
}

bool write_cr4(Cpu& cpu, uint64_t value) {
  if ((value & ~offered_cr4(cpu)) != 0) return fault(cpu, kGP, 0);
  const uint64_t changed = value ^ cpu.cr4;
  if (is_long_mode(cpu) && (value & kCr4Pae) == 0) return fault(cpu, kGP, 0);
  if ((value & changed & kCr4Pcide) != 0) {
    if (!is_long_mode(cpu) || (cpu.cr3 & 0xfffU) != 0) return fault(cpu, kGP, 0);
  }
  // These change how entries are read, so PAE's pointers are read again (SDM 3A 4.4.1).
  constexpr uint64_t kPaging = kCr4Pae | kCr4Pse | kCr4Pge | kCr4Smep;
  if ((changed & kPaging) != 0 && is_pae_legacy(cpu.cr0, value, cpu.efer)) {
    if (!load_pdptes(cpu, cpu.cr3)) return false;
  }
  cpu.cr4 = value;
  if ((changed & (kPaging | kCr4Smap | kCr4Pcide)) != 0) flush_tlb(cpu);
  update_mode(cpu);
  return true;
}

namespace system {
namespace {

uint64_t read_cr8(const Cpu& cpu) {
  return cpu.env->lapic != nullptr ? cpu.env->lapic->tpr() : cpu.cr8_shadow;
}

bool write_cr8(Cpu& cpu, uint64_t value) {
  if (value > 15) return fault(cpu, kGP, 0);
  cpu.cr8_shadow = value;
  if (cpu.env->lapic != nullptr) {
    cpu.env->lapic->set_tpr(static_cast<uint8_t>(value));
    cpu.attention.fetch_or(kAttnInterrupt, std::memory_order_relaxed);
  }
  return true;
}

}  // namespace

Step mov_to_cr(Cpu& cpu, const Insn& insn) {
  if (!require_cpl0(cpu)) return Step::Fault;
  uint64_t value = reg<uint64_t>(cpu, insn.src);
  if (!is_code64(cpu)) value &= 0xffff'ffffU;
  switch (insn.dst) {
    case 0:
      return write_cr0(cpu, value) ? Step::EndBlock : Step::Fault;
    case 2:
      cpu.cr2 = value;
      return Step::Next;
    case 3:
      return write_cr3(cpu, value) ? Step::EndBlock : Step::Fault;
    case 4:
      return write_cr4(cpu, value) ? Step::EndBlock : Step::Fault;
    case 8:
      return write_cr8(cpu, value) ? Step::EndBlock : Step::Fault;
    default:
      return raise(cpu, kUD);
  }
}

Step mov_from_cr(Cpu& cpu, const Insn& insn) {
  if (!require_cpl0(cpu)) return Step::Fault;
  uint64_t value = 0;
  switch (insn.src) {
    case 0:
      value = cpu.cr0;
      break;
    case 2:
      value = cpu.cr2;
      break;
    case 3:
      value = cpu.cr3;
      break;
    case 4:
      value = cpu.cr4;
      break;
    case 8:
      value = read_cr8(cpu);
      break;
    default:
      return raise(cpu, kUD);
  }
  if (!is_code64(cpu)) value &= 0xffff'ffffU;
  set_reg<uint64_t>(cpu, insn.dst, value);
  return Step::Next;
}

Step lmsw(Cpu& cpu, const Insn& insn) {
  if (!require_cpl0(cpu)) return Step::Fault;
  uint16_t word = 0;
  if (!load_word_operand(cpu, insn, insn.dst, word)) return Step::Fault;
  // MP, EM, TS; PE can be set but not cleared (SDM 2A "LMSW").
  const uint64_t low = (word & 0xfU) | (cpu.cr0 & kCr0Pe);
  return write_cr0(cpu, (cpu.cr0 & ~uint64_t{0xf}) | low) ? Step::EndBlock : Step::Fault;
}

Step smsw(Cpu& cpu, const Insn& insn) {
  if ((cpu.cr4 & kCr4Umip) != 0 && cpu.cpl != 0) return raise(cpu, kGP, 0);
  return store_word_operand(cpu, insn, cpu.cr0);
}

Step clts(Cpu& cpu, const Insn&) {
  if (!require_cpl0(cpu)) return Step::Fault;
  cpu.cr0 &= ~kCr0Ts;
  return Step::EndBlock;
}

}  // namespace system
}  // namespace trapeze::soft
