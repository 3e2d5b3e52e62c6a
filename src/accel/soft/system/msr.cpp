#include "accel/soft/system/msr.h"

#include <iterator>

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/kvm_clock.h"
#include "accel/soft/system/mode.h"
#include "irq/chip/lapic.h"

namespace trapeze::soft {
namespace {

constexpr uint32_t kTsc = 0x10, kTscAdjust = 0x3b, kApicBase = 0x1b, kTscDeadline = 0x6e0,
                   kX2apicFirst = 0x800, kX2apicLast = 0x8ff, kKvmWallClock = 0x4b564d00,
                   kKvmSystemTime = 0x4b564d01, kPat = 0x277, kMtrrDefType = 0x2ff;

constexpr uint64_t kEferSce = 1U << 0, kEferLme = 1U << 8, kEferLma = 1U << 10, kEferNxe = 1U << 11;
constexpr unsigned kMtrrPairs = 8;
constexpr uint64_t kMtrrCap = kMtrrPairs | (1U << 8) | (1U << 10);  // fixed ranges, WC
// Fast strings; branch trace and PEBS are not there.
constexpr uint64_t kMiscEnableAtReset = 1U | (1U << 11) | (1U << 12);
constexpr uint64_t kMiscEnableWritable =
    1U | (1U << 3) | (1U << 16) | (1U << 18) | (1U << 22) | (1U << 23) | (uint64_t{1} << 34);
constexpr uint64_t kMiscEnableReadOnly = (1U << 7) | (1U << 11) | (1U << 12);
constexpr uint64_t kPatAtReset = 0x0007040600070406;

bool has(const Cpu& cpu, Feature feature) { return cpu.env->model->has(feature); }
uint64_t physical_mask(const Cpu& cpu) { return (uint64_t{1} << cpu.env->model->phys_bits()) - 1; }

// --- checks of values: true when the register takes `value`
using Check = bool (*)(const Cpu& cpu, uint64_t value);

bool any_value(const Cpu&, uint64_t) { return true; }
bool canonical(const Cpu& cpu, uint64_t value) { return is_canonical(cpu, value); }
bool low_half(const Cpu&, uint64_t value) { return (value >> 32) == 0; }

bool is_memory_type(uint64_t type) {  // SDM 3A table 11-2, without PAT's UC-
  return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}
bool pat_types(const Cpu&, uint64_t value) {
  for (unsigned i = 0; i < 8; ++i) {
    const uint64_t type = (value >> (8 * i)) & 0xff;
    if (!is_memory_type(type) && type != 7) return false;
  }
  return true;
}
bool mtrr_fixed_types(const Cpu&, uint64_t value) {
  for (unsigned i = 0; i < 8; ++i)
    if (!is_memory_type((value >> (8 * i)) & 0xff)) return false;
  return true;
}
bool mtrr_default(const Cpu&, uint64_t value) {
  return (value & ~uint64_t{0xcff}) == 0 && is_memory_type(value & 0xff);
}
bool mtrr_base(const Cpu& cpu, uint64_t value) {
  return (value & ~physical_mask(cpu)) == 0 && (value & 0xf00) == 0 && is_memory_type(value & 0xff);
}
bool mtrr_mask(const Cpu& cpu, uint64_t value) {
  return (value & ~physical_mask(cpu)) == 0 && (value & 0x7ff) == 0;
}
bool lbr_and_btf(const Cpu&, uint64_t value) { return (value & ~uint64_t{3}) == 0; }
bool machine_check_status(const Cpu&, uint64_t value) { return (value & ~uint64_t{7}) == 0; }
bool misc_enable(const Cpu&, uint64_t value) {
  return (value & ~(kMiscEnableWritable | kMiscEnableReadOnly)) == 0;
}
// The address must be 4-byte aligned; bit 0 enables.
bool kvm_clock_address(const Cpu&, uint64_t value) { return (value & 2) == 0; }

// --- plain registers: storage with a check
struct PlainMsr {
  uint32_t index;
  uint64_t Cpu::*field;
  Check check;
};
constexpr PlainMsr kPlain[] = {
    {0x174, &Cpu::sysenter_cs, any_value},
    {0x175, &Cpu::sysenter_esp, canonical},
    {0x176, &Cpu::sysenter_eip, canonical},
    {0x17a, &Cpu::mcg_status, machine_check_status},
    {0x1a0, &Cpu::misc_enable, misc_enable},
    {0x1d9, &Cpu::debugctl, lbr_and_btf},
    {kPat, &Cpu::pat, pat_types},
    {kMtrrDefType, &Cpu::mtrr_def_type, mtrr_default},
    {0xc0000081, &Cpu::star, any_value},
    {0xc0000082, &Cpu::lstar, canonical},
    {0xc0000083, &Cpu::cstar, canonical},
    {0xc0000084, &Cpu::sfmask, low_half},
    {0xc0000102, &Cpu::kernel_gs_base, canonical},
    {0xc0000103, &Cpu::tsc_aux, low_half},
};

const PlainMsr* find_plain(uint32_t index) {
  for (const PlainMsr& msr : kPlain)
    if (msr.index == index) return &msr;
  return nullptr;
}

// --- MTRRs by index
constexpr uint32_t kFixedMtrrs[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                    0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

// The storage of an MTRR, or nullptr; `check` is what it takes.
uint64_t* find_mtrr(Cpu& cpu, uint32_t index, Check& check) {
  if (index >= 0x200 && index < 0x200 + 2 * kMtrrPairs) {
    check = (index & 1) != 0 ? mtrr_mask : mtrr_base;
    return &cpu.mtrr_phys[index - 0x200];
  }
  for (unsigned i = 0; i < std::size(kFixedMtrrs); ++i) {
    if (kFixedMtrrs[i] != index) continue;
    check = mtrr_fixed_types;
    return &cpu.mtrr_fixed[i];
  }
  return nullptr;
}

// --- EFER (SDM 4, "IA32_EFER")
bool write_efer(Cpu& cpu, uint64_t value) {
  uint64_t allowed = kEferLma;  // ignored on writes
  if (has(cpu, Feature::Syscall)) allowed |= kEferSce;
  if (has(cpu, Feature::Lm)) allowed |= kEferLme;
  if (has(cpu, Feature::Nx)) allowed |= kEferNxe;
  if ((value & ~allowed) != 0) return false;
  const bool lme_changes = ((value ^ cpu.efer) & kEferLme) != 0;
  if (lme_changes && (cpu.cr0 >> 31) != 0) return false;
  const uint64_t old = cpu.efer;
  cpu.efer = (value & ~kEferLma) | (old & kEferLma);
  if (((old ^ cpu.efer) & kEferNxe) != 0) flush_tlb(cpu);
  update_mode(cpu);
  return true;
}

// --- time
bool move_tsc(Cpu& cpu, uint64_t delta) {
  cpu.tsc_offset += delta;
  if (cpu.env->lapic != nullptr) cpu.env->lapic->tsc_changed();
  update_kvm_clock(cpu);
  return true;
}

// --- the local APIC's
bool is_x2apic_msr(uint32_t index) { return index >= kX2apicFirst && index <= kX2apicLast; }

bool read_apic_msr(Cpu& cpu, uint32_t index, uint64_t& value) {
  Lapic* lapic = cpu.env->lapic;
  if (lapic == nullptr) return false;
  if (index == kApicBase) {
    value = lapic->apic_base();
    return true;
  }
  if (index == kTscDeadline) {
    value = lapic->tsc_deadline();
    return has(cpu, Feature::TscDeadline);
  }
  return has(cpu, Feature::X2apic) && lapic->msr_read(index, value);
}

bool write_apic_msr(Cpu& cpu, uint32_t index, uint64_t value) {
  Lapic* lapic = cpu.env->lapic;
  if (lapic == nullptr) return false;
  if (index == kApicBase) return lapic->set_apic_base(value);
  if (index == kTscDeadline) {
    if (!has(cpu, Feature::TscDeadline)) return false;
    lapic->set_tsc_deadline(value);
    return true;
  }
  return has(cpu, Feature::X2apic) && lapic->msr_write(index, value);
}

// --- registers with a side effect or a constant value
struct SpecialMsr {
  uint32_t index;
  bool (*read)(Cpu& cpu, uint64_t& value);
  bool (*write)(Cpu& cpu, uint64_t value);  // null: read-only
};

template <uint64_t Value>
bool constant(Cpu&, uint64_t& value) {
  value = Value;
  return true;
}
bool ignore_write(Cpu&, uint64_t) { return true; }

bool read_tsc(Cpu& cpu, uint64_t& value) {
  value = guest_tsc(cpu);
  return true;
}
bool write_tsc(Cpu& cpu, uint64_t value) {
  const uint64_t delta = value - guest_tsc(cpu);
  cpu.tsc_adjust += delta;  // SDM 3B 17.17.3
  return move_tsc(cpu, delta);
}
bool read_tsc_adjust(Cpu& cpu, uint64_t& value) {
  value = cpu.tsc_adjust;
  return has(cpu, Feature::TscAdjust);
}
bool write_tsc_adjust(Cpu& cpu, uint64_t value) {
  if (!has(cpu, Feature::TscAdjust)) return false;
  const uint64_t delta = value - cpu.tsc_adjust;
  cpu.tsc_adjust = value;
  return move_tsc(cpu, delta);
}
bool read_efer(Cpu& cpu, uint64_t& value) {
  value = cpu.efer;
  return true;
}
template <unsigned Seg>
bool read_base(Cpu& cpu, uint64_t& value) {
  value = cpu.seg[Seg].base;
  return true;
}
template <unsigned Seg>
bool write_base(Cpu& cpu, uint64_t value) {
  if (!is_canonical(cpu, value)) return false;
  cpu.seg[Seg].base = value;
  cpu.linear_base[Seg] = value;
  return true;
}
bool read_arch_capabilities(Cpu& cpu, uint64_t& value) {
  value = cpu.env->model->arch_capabilities();
  return has(cpu, Feature::ArchCapabilities);
}
bool read_kvm_wall_clock(Cpu& cpu, uint64_t& value) {
  value = cpu.kvm_wall_clock;
  return true;
}
bool set_kvm_wall_clock(Cpu& cpu, uint64_t value) {
  if ((value & 3) != 0) return false;
  cpu.kvm_wall_clock = value;
  write_kvm_wall_clock(cpu);
  return true;
}
bool read_kvm_system_time(Cpu& cpu, uint64_t& value) {
  value = cpu.kvm_system_time;
  return true;
}
bool set_kvm_system_time(Cpu& cpu, uint64_t value) {
  if (!kvm_clock_address(cpu, value)) return false;
  cpu.kvm_system_time = value;
  update_kvm_clock(cpu);
  return true;
}

constexpr SpecialMsr kSpecial[] = {
    {kTsc, read_tsc, write_tsc},
    {0x11, read_kvm_wall_clock, set_kvm_wall_clock},  // the KVM clock's first numbers
    {0x12, read_kvm_system_time, set_kvm_system_time},
    {0x17, constant<0>, nullptr},  // IA32_PLATFORM_ID
    {0x3a, constant<1>, nullptr},  // IA32_FEATURE_CONTROL: locked, no VMX
    {kTscAdjust, read_tsc_adjust, write_tsc_adjust},
    // IA32_BIOS_SIGN_ID: kernels write 0, execute CPUID and read the revision in the high half.
    {0x8b, constant<uint64_t{1} << 32>, ignore_write},
    {0xfe, constant<kMtrrCap>, nullptr},
    {0x10a, read_arch_capabilities, nullptr},
    {0x179, constant<0>, nullptr},  // IA32_MCG_CAP: no banks
    {0xc0000080, read_efer, write_efer},
    {0xc0000100, read_base<kFs>, write_base<kFs>},
    {0xc0000101, read_base<kGs>, write_base<kGs>},
    {kKvmWallClock, read_kvm_wall_clock, set_kvm_wall_clock},
    {kKvmSystemTime, read_kvm_system_time, set_kvm_system_time},
};

const SpecialMsr* find_special(uint32_t index) {
  for (const SpecialMsr& msr : kSpecial)
    if (msr.index == index) return &msr;
  return nullptr;
}

bool is_apic_msr(uint32_t index) {
  return index == kApicBase || index == kTscDeadline || is_x2apic_msr(index);
}

}  // namespace

uint64_t guest_tsc(const Cpu& cpu) {
  return cpu.env->clock->monotonic_ns() - cpu.env->tsc_zero_ns + cpu.tsc_offset;
}

// Ordered by how often kernels come: the APIC, then the bases of FS and GS, then the rest.
bool read_msr(Cpu& cpu, uint32_t index, uint64_t& value) {
  if (is_apic_msr(index)) return read_apic_msr(cpu, index, value);
  if (const SpecialMsr* msr = find_special(index)) return msr->read(cpu, value);
  if (const PlainMsr* msr = find_plain(index)) {
    value = cpu.*(msr->field);
    return true;
  }
  Check check = nullptr;
  if (const uint64_t* mtrr = find_mtrr(cpu, index, check)) {
    value = *mtrr;
    return true;
  }
  return false;
}

bool write_msr(Cpu& cpu, uint32_t index, uint64_t value) {
  if (is_apic_msr(index)) return write_apic_msr(cpu, index, value);
  if (const SpecialMsr* msr = find_special(index))
    return msr->write != nullptr && msr->write(cpu, value);
  if (const PlainMsr* msr = find_plain(index)) {
    if (!msr->check(cpu, value)) return false;
    cpu.*(msr->field) = value;
    return true;
  }
  Check check = nullptr;
  if (uint64_t* mtrr = find_mtrr(cpu, index, check)) {
    if (!check(cpu, value)) return false;
    *mtrr = value;
    return true;
  }
  return false;
}

void reset_msrs(Cpu& cpu) {
  for (const PlainMsr& msr : kPlain) cpu.*(msr.field) = 0;
  for (uint64_t& mtrr : cpu.mtrr_fixed) mtrr = 0;
  for (uint64_t& mtrr : cpu.mtrr_phys) mtrr = 0;
  cpu.pat = kPatAtReset;
  // As firmware leaves it, and there is none on this board: enabled, default write-back. Kernels
  // turn PAT off when they find the MTRRs disabled.
  cpu.mtrr_def_type = (1U << 11) | 6;
  cpu.misc_enable = kMiscEnableAtReset;
  cpu.tsc_offset = 0;
  cpu.tsc_adjust = 0;
  cpu.spec_ctrl = 0;
  cpu.kvm_system_time = 0;
  cpu.kvm_wall_clock = 0;
  cpu.kvm_poll_control = 0;
  cpu.kvm_pv_eoi = 0;
  cpu.kvm_steal_time = 0;
}

void save_msrs(const Cpu& cpu, std::vector<MsrValue>& to) {
  to.push_back({kTsc, guest_tsc(cpu)});
  to.push_back({kTscAdjust, cpu.tsc_adjust});
  for (const PlainMsr& msr : kPlain) to.push_back({msr.index, cpu.*(msr.field)});
  for (uint32_t i = 0; i < 2 * kMtrrPairs; ++i) to.push_back({0x200 + i, cpu.mtrr_phys[i]});
  for (uint32_t i = 0; i < std::size(kFixedMtrrs); ++i)
    to.push_back({kFixedMtrrs[i], cpu.mtrr_fixed[i]});
  to.push_back({kKvmWallClock, cpu.kvm_wall_clock});
  to.push_back({kKvmSystemTime, cpu.kvm_system_time});
}

bool restore_msr(Cpu& cpu, uint32_t index, uint64_t value) {
  switch (index) {
    case kTsc:
      cpu.tsc_offset += value - guest_tsc(cpu);
      update_kvm_clock(cpu);
      return true;
    case kTscAdjust:
      cpu.tsc_adjust = value;
      return true;
    case kKvmWallClock:
      cpu.kvm_wall_clock = value;  // the guest's page was restored with its memory
      return (value & 3) == 0;
    default:
      return write_msr(cpu, index, value);
  }
}

}  // namespace trapeze::soft
