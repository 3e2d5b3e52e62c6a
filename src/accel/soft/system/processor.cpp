// CPUID, MSRs, time stamps, and the hypercall.
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/control.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/msr.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft::system {
namespace {

void set_edx_eax(Cpu& cpu, uint64_t value) {
  cpu.gpr[kRax] = value & 0xffff'ffffU;
  cpu.gpr[kRdx] = value >> 32;
}

bool may_read_tsc(Cpu& cpu) {
  if ((cpu.cr4 & kCr4Tsd) == 0 || cpu.cpl == 0) return true;
  raise(cpu, kGP, 0);
  return false;
}

}  // namespace

Step cpuid(Cpu& cpu, const Insn&) {
  const auto leaf = static_cast<uint32_t>(cpu.gpr[kRax]);
  const auto subleaf = static_cast<uint32_t>(cpu.gpr[kRcx]);
  CpuidResult result = cpu.env->model->cpuid(leaf, subleaf, cpu.env->id);
  if (leaf == 1) {
    constexpr uint32_t kOsxsave = 1U << 27, kApic = 1U << 9;
    if ((cpu.cr4 & kCr4Osxsave) != 0) result.ecx |= kOsxsave;
    // Without a local APIC, or with it disabled in IA32_APIC_BASE, the flag is 0 (SDM 3A 11.4.3).
    if (cpu.env->lapic == nullptr || !cpu.env->lapic->is_enabled()) result.edx &= ~kApic;
  }
  cpu.gpr[kRax] = result.eax;
  cpu.gpr[kRbx] = result.ebx;
  cpu.gpr[kRcx] = result.ecx;
  cpu.gpr[kRdx] = result.edx;
  return Step::Next;
}

Step rdmsr(Cpu& cpu, const Insn&) {
  if (!require_cpl0(cpu)) return Step::Fault;
  uint64_t value = 0;
  if (!read_msr(cpu, static_cast<uint32_t>(cpu.gpr[kRcx]), value)) return raise(cpu, kGP, 0);
  set_edx_eax(cpu, value);
  return Step::Next;
}

Step wrmsr(Cpu& cpu, const Insn&) {
  if (!require_cpl0(cpu)) return Step::Fault;
  const uint64_t value = (cpu.gpr[kRdx] << 32) | (cpu.gpr[kRax] & 0xffff'ffffU);
  if (!write_msr(cpu, static_cast<uint32_t>(cpu.gpr[kRcx]), value)) return raise(cpu, kGP, 0);
  return Step::EndBlock;  // EFER may have changed the paging, the APIC what is deliverable
}

Step rdtsc(Cpu& cpu, const Insn&) {
  if (!may_read_tsc(cpu)) return Step::Fault;
  set_edx_eax(cpu, guest_tsc(cpu));
  return Step::Next;
}

Step rdtscp(Cpu& cpu, const Insn&) {
  if (!may_read_tsc(cpu)) return Step::Fault;
  set_edx_eax(cpu, guest_tsc(cpu));
  cpu.gpr[kRcx] = cpu.tsc_aux;
  return Step::Next;
}

Step rdpid(Cpu& cpu, const Insn& insn) {
  set_reg<uint64_t>(cpu, insn.dst, cpu.tsc_aux);
  return Step::Next;
}

// No counter is offered (CPUID leaf 0xa is 0), so every index is out of range.
Step rdpmc(Cpu& cpu, const Insn&) { return raise(cpu, kGP, 0); }

// With the KVM signature a guest may ask; no hypercall is served (Linux uapi/linux/kvm_para.h).
Step hypercall(Cpu& cpu, const Insn&) {
  constexpr int64_t kEnosys = 1000, kEperm = 1;
  const auto answer = static_cast<uint64_t>(cpu.cpl != 0 ? -kEperm : -kEnosys);
  cpu.gpr[kRax] = is_code64(cpu) ? answer : answer & 0xffff'ffffU;
  return Step::Next;
}

}  // namespace trapeze::soft::system
