// CPUID, MSRs, time stamps, and the hypercall.
#include "accel/soft/core/env.h"
#include "accel/soft/exec/xsave.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/control.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/msr.h"
#include "irq/chip/apic_message.h"
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

// KVM_HC_SEND_IPI (kernel document virt/kvm/x86/hypercalls.rst): bit i of RBX and RCX sends the ICR
// value in RSI to APIC ID RDX + i. Returns how many took it.
int64_t send_ipis(Cpu& cpu) {
  constexpr int64_t kEinval = 22;
  constexpr uint64_t kMaxApicId = 254;
  const uint64_t icr = cpu.gpr[kRsi];
  constexpr uint64_t kVectorAndMode = 0x7ff;  // no shorthand, no destination, edge-triggered
  const auto mode = static_cast<DeliveryMode>((icr >> 8) & 7);
  if ((icr & ~kVectorAndMode) != 0 || (mode != DeliveryMode::Fixed && mode != DeliveryMode::Nmi)) {
    return -kEinval;
  }
  if (cpu.gpr[kRdx] > kMaxApicId) return 0;
  const uint64_t bitmap[2] = {cpu.gpr[kRbx], cpu.gpr[kRcx]};
  int64_t taken = 0;
  for (unsigned i = 0; i < 128; ++i) {
    const uint64_t id = cpu.gpr[kRdx] + i;
    if (((bitmap[i / 64] >> (i % 64)) & 1) == 0 || id > kMaxApicId) continue;
    ApicMessage message;
    message.mode = mode;
    message.vector = static_cast<uint8_t>(icr);
    message.wide = true;
    message.destination = static_cast<uint32_t>(id);
    message.source = cpu.env->id.raw();
    taken += cpu.env->apic_bus->send(message) ? 1 : 0;
  }
  return taken;
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
  const bool sizes_follow_xcr0 = leaf == 0xd && subleaf <= 1;
  if (sizes_follow_xcr0 && result.ebx != 0) result.ebx = xsave_area_bytes(cpu.xcr0);
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

namespace {

// XGETBV and XSETBV are there once the system says that it uses XSAVE (SDM 1 13.3).
bool may_use_xcr(Cpu& cpu) {
  if ((cpu.cr4 & kCr4Osxsave) != 0) return true;
  raise(cpu, kUD);
  return false;
}

}  // namespace

Step xgetbv(Cpu& cpu, const Insn&) {
  if (!may_use_xcr(cpu)) return Step::Fault;
  const auto index = static_cast<uint32_t>(cpu.gpr[kRcx]);
  if (index > 1) return raise(cpu, kGP, 0);
  set_edx_eax(cpu, index == 0 ? cpu.xcr0 : cpu.xcr0 & exec::components_in_use(cpu));
  return Step::Next;
}

Step xsetbv(Cpu& cpu, const Insn&) {
  if (!may_use_xcr(cpu) || !require_cpl0(cpu)) return Step::Fault;
  const uint64_t value = (cpu.gpr[kRdx] << 32) | (cpu.gpr[kRax] & 0xffff'ffffU);
  if (static_cast<uint32_t>(cpu.gpr[kRcx]) != 0 || !is_valid_xcr0(cpu, value)) {
    return raise(cpu, kGP, 0);
  }
  cpu.xcr0 = value;
  return Step::EndBlock;
}

// No counter is offered (CPUID leaf 0xa is 0), so every index is out of range.
Step rdpmc(Cpu& cpu, const Insn&) { return raise(cpu, kGP, 0); }

// KVM's hypercalls, as far as CPUID leaf 0x40000001 offers them (Linux uapi/linux/kvm_para.h).
Step hypercall(Cpu& cpu, const Insn&) {
  constexpr int64_t kEnosys = 1000, kEperm = 1;
  constexpr uint64_t kSendIpi = 10;
  int64_t answer = -kEnosys;
  if (cpu.cpl != 0) {
    answer = -kEperm;
  } else if (cpu.gpr[kRax] == kSendIpi && is_code64(cpu) && cpu.env->apic_bus != nullptr) {
    answer = send_ipis(cpu);
  }
  const auto value = static_cast<uint64_t>(answer);
  cpu.gpr[kRax] = is_code64(cpu) ? value : value & 0xffff'ffffU;
  return Step::Next;
}

}  // namespace trapeze::soft::system
