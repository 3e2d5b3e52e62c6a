// SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, RDFSBASE and relatives (SDM 2B).
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/segment_access.h"
#include "accel/soft/system/control.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/mode.h"

namespace trapeze::soft::system {
namespace {

constexpr uint64_t kEferSce = 1;

// The flat segments that these instructions load without looking at a descriptor table.
constexpr uint32_t kFlatLimit = 0xffff'ffffU;
constexpr uint32_t kCodeAccess = 0x9b | kSegG;  // accessed, readable code, DPL 0
constexpr uint32_t kDataAccess = 0x93 | kSegG | kSegDb;

void load_flat(Cpu& cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool is_64) {
  const uint32_t dpl = cpl << 5;
  cpu.seg[kCs] = {0, kFlatLimit, kCodeAccess | dpl | (is_64 ? kSegL : kSegDb), cs};
  cpu.seg[kSs] = {0, kFlatLimit, kDataAccess | dpl, ss};
  cpu.cpl = static_cast<uint8_t>(cpl);
}

// For SYSCALL and SYSRET it is TF behind the instruction that decides about the single-step trap:
// so a kernel that masks TF is not stepped, and the trap comes right behind the SYSRET.
Step finish_with_new_tf(Cpu& cpu) {
  update_mode(cpu);
  cpu.stepping = false;
  if ((cpu.rflags_system & kTf) != 0) {
    raise(cpu, kDB);
    cpu.fault.dr6 = kDr6Bs;
    cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
  }
  return Step::Branch;
}

}  // namespace

Step syscall(Cpu& cpu, const Insn& insn) {
  // In compatibility mode Intel's processors raise #UD, while AMD's go to CSTAR. No program can
  // depend on the former, and test images want the latter.
  if (!is_long_mode(cpu) || (cpu.efer & kEferSce) == 0) return raise(cpu, kUD);
  const uint64_t target = is_code64(cpu) ? cpu.lstar : cpu.cstar;
  cpu.gpr[kRcx] = next_rip(cpu, insn);
  cpu.gpr[kR11] = rflags(cpu) & ~kRf;
  const auto cs = static_cast<uint16_t>((cpu.star >> 32) & 0xfffcU);
  load_flat(cpu, cs, static_cast<uint16_t>(cs + 8), 0, true);
  cpu.rip = target;
  set_rflags(cpu, 0, cpu.sfmask | kRf);
  return finish_with_new_tf(cpu);
}

Step sysret(Cpu& cpu, const Insn& insn) {
  if (!is_code64(cpu) || (cpu.efer & kEferSce) == 0) return raise(cpu, kUD);
  if (!require_cpl0(cpu)) return Step::Fault;
  const bool to_64 = insn.width == 8;
  const uint64_t target = to_64 ? cpu.gpr[kRcx] : cpu.gpr[kRcx] & 0xffff'ffffU;
  if (to_64 && !is_canonical(cpu, target)) return raise(cpu, kGP, 0);
  const auto base = static_cast<uint16_t>(cpu.star >> 48);
  const auto cs = static_cast<uint16_t>((base + (to_64 ? 16 : 0)) | 3);
  load_flat(cpu, cs, static_cast<uint16_t>((base + 8) | 3), 3, to_64);
  cpu.rip = target;
  constexpr uint64_t kRestored = 0x3c7fd7;
  set_rflags(cpu, cpu.gpr[kR11] & kRestored, ~(kRf | kVm));
  cpu.rflags_system &= ~(kRf | kVm);
  return finish_with_new_tf(cpu);
}

Step sysenter(Cpu& cpu, const Insn&) {
  if (!is_protected(cpu) || (cpu.sysenter_cs & 0xfffcU) == 0) return raise(cpu, kGP, 0);
  const bool is_64 = is_long_mode(cpu);
  const auto cs = static_cast<uint16_t>(cpu.sysenter_cs & 0xfffcU);
  load_flat(cpu, cs, static_cast<uint16_t>(cs + 8), 0, is_64);
  cpu.gpr[kRsp] = is_64 ? cpu.sysenter_esp : cpu.sysenter_esp & 0xffff'ffffU;
  cpu.rip = is_64 ? cpu.sysenter_eip : cpu.sysenter_eip & 0xffff'ffffU;
  set_rflags(cpu, 0, kVm | kIf | kRf);
  update_mode(cpu);
  return Step::Branch;
}

Step sysexit(Cpu& cpu, const Insn& insn) {
  if (!is_protected(cpu) || (cpu.sysenter_cs & 0xfffcU) == 0 || cpu.cpl != 0)
    return raise(cpu, kGP, 0);
  const bool to_64 = insn.width == 8;
  uint64_t rip = cpu.gpr[kRdx], rsp = cpu.gpr[kRcx];
  if (to_64) {
    if (!is_canonical(cpu, rip) || !is_canonical(cpu, rsp)) return raise(cpu, kGP, 0);
  } else {
    rip &= 0xffff'ffffU;
    rsp &= 0xffff'ffffU;
  }
  const auto base = static_cast<uint16_t>(cpu.sysenter_cs);
  const auto cs = static_cast<uint16_t>((base + (to_64 ? 32 : 16)) | 3);
  load_flat(cpu, cs, static_cast<uint16_t>(cs + 8), 3, to_64);
  cpu.gpr[kRsp] = rsp;
  cpu.rip = rip;
  update_mode(cpu);
  return Step::Branch;
}

Step swapgs(Cpu& cpu, const Insn&) {
  if (!is_code64(cpu)) return raise(cpu, kUD);
  if (!require_cpl0(cpu)) return Step::Fault;
  const uint64_t base = cpu.seg[kGs].base;
  cpu.seg[kGs].base = cpu.kernel_gs_base;
  cpu.linear_base[kGs] = cpu.kernel_gs_base;
  cpu.kernel_gs_base = base;
  return Step::Next;
}

Step rdfsbase(Cpu& cpu, const Insn& insn) {
  if (!is_code64(cpu) || (cpu.cr4 & kCr4Fsgsbase) == 0) return raise(cpu, kUD);
  const uint64_t base = cpu.seg[insn.aux].base;
  set_reg<uint64_t>(cpu, insn.dst, insn.width == 8 ? base : base & 0xffff'ffffU);
  return Step::Next;
}

Step wrfsbase(Cpu& cpu, const Insn& insn) {
  if (!is_code64(cpu) || (cpu.cr4 & kCr4Fsgsbase) == 0) return raise(cpu, kUD);
  uint64_t base = reg<uint64_t>(cpu, insn.dst);
  if (insn.width != 8) base &= 0xffff'ffffU;
  if (!is_canonical(cpu, base)) return raise(cpu, kGP, 0);
  cpu.seg[insn.aux].base = base;
  cpu.linear_base[insn.aux] = base;
  return Step::Next;
}

}  // namespace trapeze::soft::system
