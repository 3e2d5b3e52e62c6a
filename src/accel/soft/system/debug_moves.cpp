// MOV to and from debug registers (SDM 2B "MOV", 3B 17.2).
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/control.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/instructions.h"

namespace trapeze::soft::system {
namespace {

constexpr uint64_t kDr6Writable = 0xf | kDr6Bd | kDr6Bs | kDr6Bt;
constexpr uint64_t kDr7Reserved = 0xdc00;  // bits 10 (reads 1), 11, 12, 14, 15

// The register that the instruction means, or the exception instead: DR4 and DR5 are DR6 and DR7
// unless CR4.DE; DR7.GD guards them all.
bool check_access(Cpu& cpu, unsigned& number) {
  if (number == 4 || number == 5) {
    if ((cpu.cr4 & kCr4De) != 0) {
      raise(cpu, kUD);
      return false;
    }
    number += 2;
  }
  if (number > 7) {
    raise(cpu, kUD);
    return false;
  }
  if (!require_cpl0(cpu)) return false;
  if ((cpu.dr7 & kDr7Gd) != 0) {
    raise(cpu, kDB);
    cpu.fault.dr6 = kDr6Bd;
    return false;
  }
  return true;
}

}  // namespace

Step mov_to_dr(Cpu& cpu, const Insn& insn) {
  unsigned number = insn.dst;
  if (!check_access(cpu, number)) return Step::Fault;
  uint64_t value = reg<uint64_t>(cpu, insn.src);
  if (!is_code64(cpu)) value &= 0xffff'ffffU;
  if (number < 4) {
    cpu.dr[number] = value;
    if ((cpu.dr7 & 0xffU) == 0) return Step::Next;
  } else {
    if ((value >> 32) != 0) return raise(cpu, kGP, 0);
    if (number == 6) {
      cpu.dr6 = (value & kDr6Writable) | kDr6Fixed;
      return Step::Next;
    }
    cpu.dr7 = (value & ~kDr7Reserved) | kDr7Fixed;
  }
  if (needs_stepping(cpu)) cpu.attention.fetch_or(kAttnStep, std::memory_order_relaxed);
  flush_tlb(cpu);  // watched pages never enter the TLB, so it forgets those it has
  return Step::EndBlock;
}

Step mov_from_dr(Cpu& cpu, const Insn& insn) {
  unsigned number = insn.src;
  if (!check_access(cpu, number)) return Step::Fault;
  uint64_t value = number == 6 ? cpu.dr6 : cpu.dr7;
  if (number < 4) value = cpu.dr[number];
  if (!is_code64(cpu)) value &= 0xffff'ffffU;
  set_reg<uint64_t>(cpu, insn.dst, value);
  return Step::Next;
}

}  // namespace trapeze::soft::system
