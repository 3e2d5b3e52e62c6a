// The register file of the local APIC: the xAPIC page, the x2APIC MSRs, IA32_APIC_BASE, and the
// saved state. Own vCPU thread only.
#include "irq/chip/lapic_registers.h"

#include <array>

#include "irq/chip/lapic.h"

namespace trapeze {

using namespace apic_reg;

namespace {

enum class Access : uint8_t { None, Read, Write, ReadWrite };

constexpr bool can_read(Access access) {
  return access == Access::Read || access == Access::ReadWrite;
}
constexpr bool can_write(Access access) {
  return access == Access::Write || access == Access::ReadWrite;
}

using AccessTable = std::array<Access, 64>;

// SDM 3A table 11-1. The ID is read-only here, as on processors that support x2APIC without legacy
// xAPIC writes; the arbitration priority and remote read registers read 0.
constexpr AccessTable xapic_table() {
  AccessTable table{};
  for (const uint32_t offset : {kId, kVersion, kApr, kPpr, kRemoteRead, kCurrentCount}) {
    table[offset >> 4] = Access::Read;
  }
  for (uint32_t offset = kIsr; offset < kEsr; offset += 0x10) table[offset >> 4] = Access::Read;
  for (const uint32_t offset :
       {kTpr, kLdr, kDfr, kSpurious, kEsr, kIcrLow, kIcrHigh, kInitialCount, kDivide}) {
    table[offset >> 4] = Access::ReadWrite;
  }
  for (uint32_t offset = kLvtTimer; offset <= kLvtError; offset += 0x10) {
    table[offset >> 4] = Access::ReadWrite;
  }
  table[kEoi >> 4] = Access::Write;
  return table;
}

// SDM 3A table 11-6.
constexpr AccessTable x2apic_table() {
  AccessTable table = xapic_table();
  for (const uint32_t offset : {kApr, kRemoteRead, kDfr, kIcrHigh}) {
    table[offset >> 4] = Access::None;
  }
  table[kLdr >> 4] = Access::Read;
  table[kSelfIpi >> 4] = Access::Write;
  return table;
}

constexpr AccessTable kXapic = xapic_table();
constexpr AccessTable kX2apic = x2apic_table();

constexpr bool is_lvt(uint32_t offset) { return offset >= kLvtTimer && offset <= kLvtError; }

}  // namespace

// --- Access paths ---

uint32_t Lapic::mmio_read(uint32_t offset) {
  if (!is_mmio_visible()) return 0xffff'ffff;
  if (offset >= 0x1000 || (offset & 0xf) != 0) return 0;
  if (offset >= 0x400 || kXapic[offset >> 4] == Access::None) {
    record_error(kEsrIllegalRegister);
    return 0;
  }
  return can_read(kXapic[offset >> 4]) ? read_register(offset) : 0;
}

void Lapic::mmio_write(uint32_t offset, uint32_t value) {
  if (!is_mmio_visible() || offset >= 0x1000 || (offset & 0xf) != 0) return;
  if (offset >= 0x400 || kXapic[offset >> 4] == Access::None) {
    return record_error(kEsrIllegalRegister);
  }
  if (can_write(kXapic[offset >> 4])) write_register(offset, value);
}

bool Lapic::msr_read(uint32_t msr, uint64_t& value) {
  if (!is_x2apic() || msr < kMsrBase || msr >= kMsrBase + 0x40) return false;
  const uint32_t offset = (msr - kMsrBase) << 4;
  if (!can_read(kX2apic[offset >> 4])) return false;
  value = read_register(offset);
  if (offset == kIcrLow) value |= uint64_t{reg(kIcrHigh)} << 32;
  return true;
}

bool Lapic::msr_write(uint32_t msr, uint64_t value) {
  if (!is_x2apic() || msr < kMsrBase || msr >= kMsrBase + 0x40) return false;
  const uint32_t offset = (msr - kMsrBase) << 4;
  if (!can_write(kX2apic[offset >> 4])) return false;
  const auto low = static_cast<uint32_t>(value);
  const auto high = static_cast<uint32_t>(value >> 32);
  if ((low & ~x2apic_writable(offset)) != 0) return false;
  if (offset == kIcrLow) {
    set_reg(kIcrHigh, high);
    write_register(kIcrLow, low);
    return true;
  }
  if (high != 0) return false;
  write_register(offset, low);
  return true;
}

// Bits outside raise #GP (SDM 3A 11.12.1.3). Read-only status bits of an LVT entry may be written
// back as they were read; so may the focus bit of SVR, which older software sets, and the delivery
// status of ICR, which processors ignore.
uint32_t Lapic::x2apic_writable(uint32_t offset) const {
  if (is_lvt(offset)) {
    const bool is_lint = offset == kLvtLint0 || offset == kLvtLint1;
    return lvt_writable(offset) | kLvtPending | (is_lint ? kLvtRemoteIrr : 0);
  }
  switch (offset) {
    case kTpr:
    case kSelfIpi:
      return 0xff;
    case kEoi:
    case kEsr:
      return 0;
    case kSpurious:
      return 0xff | kSpuriousEnable | kSpuriousFocus;
    case kIcrLow:
      return kIcrWritable | kIcrBusy;
    case kDivide:
      return 0xb;
    default:
      return 0xffff'ffff;
  }
}

uint32_t Lapic::lvt_writable(uint32_t offset) const {
  constexpr uint32_t kCommon = kLvtVector | kLvtMasked;
  switch (offset) {
    case kLvtTimer:
      return kCommon | kLvtTimerPeriodic | (config_.has_tsc_deadline ? kLvtTimerDeadline : 0);
    case kLvtThermal:
    case kLvtPerf:
      return kCommon | kLvtMode;
    case kLvtLint0:
    case kLvtLint1:
      return kCommon | kLvtMode | kLvtPolarity | kLvtLevel;
    default:  // error
      return kCommon;
  }
}

// --- Registers ---

uint32_t Lapic::read_register(uint32_t offset) {
  if (offset == kCurrentCount) {
    const uint64_t now_ns = clock_.monotonic_ns();
    announce_timer(now_ns);
    return timer_.current_count(now_ns);
  }
  return reg(offset);
}

void Lapic::write_register(uint32_t offset, uint32_t value) {
  if (is_lvt(offset)) return write_lvt(offset, value);
  switch (offset) {
    case kTpr:
      set_reg(kTpr, value & 0xff);
      update_ppr();
      return wake_if_deliverable();
    case kEoi:
      return end_of_interrupt();
    case kLdr:
      return set_reg(kLdr, value & 0xff00'0000);
    case kDfr:
      return set_reg(kDfr, value | 0x0fff'ffff);
    case kSpurious:
      return write_spurious(value);
    case kEsr:
      return write_esr();
    case kIcrLow:
      set_reg(kIcrLow, value & kIcrWritable);
      return is_x2apic() ? send_ipi(value, reg(kIcrHigh), true)
                         : send_ipi(value, reg(kIcrHigh) >> 24, false);
    case kIcrHigh:
      return set_reg(kIcrHigh, value & 0xff00'0000);
    case kInitialCount:
    case kDivide:
      return write_timer(offset, value);
    case kSelfIpi:
      return write_self_ipi(static_cast<uint8_t>(value));
    default:
      return;  // read-only
  }
}

void Lapic::write_timer(uint32_t offset, uint32_t value) {
  const uint64_t now_ns = clock_.monotonic_ns();
  run_timer(now_ns);
  if (offset == kDivide) {
    set_reg(kDivide, value & 0xb);
    timer_.set_divide(value, now_ns);
  } else {
    timer_.set_initial_count(value, now_ns);
    set_reg(kInitialCount, timer_.initial_count());
  }
  announce_timer(now_ns);
}

void Lapic::write_lvt(uint32_t offset, uint32_t value) {
  const uint64_t now_ns = clock_.monotonic_ns();
  if (offset == kLvtTimer) run_timer(now_ns);  // a due expiry belongs to the old entry
  value &= lvt_writable(offset);
  if (!is_software_enabled()) value |= kLvtMasked;  // SDM 3A 11.4.7.2
  set_reg(offset, value);
  if (offset == kLvtLint0) refresh_lint0();
  if (offset == kLvtTimer) {
    timer_.set_mode(static_cast<ApicTimerMode>((value >> kLvtTimerModeShift) & 3U), now_ns);
    if (timer_.mode() != ApicTimerMode::TscDeadline) tsc_deadline_ = 0;
    set_reg(kInitialCount, timer_.initial_count());
    announce_timer(now_ns);
  }
}

void Lapic::write_spurious(uint32_t value) {
  set_reg(kSpurious, value & (0xff | kSpuriousEnable | kSpuriousFocus));
  if ((value & kSpuriousEnable) != 0) return;
  for (uint32_t lvt = kLvtTimer; lvt <= kLvtError; lvt += 0x10) set_reg(lvt, reg(lvt) | kLvtMasked);
  refresh_lint0();
}

void Lapic::write_esr() {
  set_reg(kEsr, errors_.exchange(0, std::memory_order_relaxed));
  error_irq_armed_.store(true, std::memory_order_relaxed);
}

void Lapic::write_self_ipi(uint8_t vector) {
  if (vector < kFirstLegalVector) return record_error(kEsrSendIllegalVector);
  // The register is an ICR write with the self shorthand (SDM 3A 11.12.11).
  if (is_software_enabled()) accept_fixed(vector, false);
}

// SDM 3A 11.6.1.
void Lapic::send_ipi(uint32_t icr_low, uint32_t destination, bool wide) {
  ApicMessage message;
  message.mode = static_cast<DeliveryMode>((icr_low >> 8) & 7U);
  message.shorthand = static_cast<Shorthand>((icr_low >> kIcrShorthandShift) & 3U);
  message.vector = static_cast<uint8_t>(icr_low);
  message.asserted = (icr_low & kIcrAssert) != 0;
  message.logical = (icr_low & kIcrLogical) != 0;
  message.wide = wide;
  message.destination = destination;
  message.source = id();
  const bool is_fixed =
      message.mode == DeliveryMode::Fixed || message.mode == DeliveryMode::LowestPriority;
  if (is_fixed && message.vector < kFirstLegalVector) return record_error(kEsrSendIllegalVector);
  // IPIs are edge-triggered, whatever the trigger bit says; only the INIT de-assert uses it.
  message.level_triggered = message.mode == DeliveryMode::Init && (icr_low & kIcrLevel) != 0;
  if (message.mode == DeliveryMode::Reserved || message.mode == DeliveryMode::ExtInt) return;
  if (message.shorthand == Shorthand::Self) {
    const bool to_self_is_legal = is_fixed || message.mode == DeliveryMode::Nmi;
    if (to_self_is_legal) deliver(message);
    return;
  }
  host_.send_ipi(message);
}

// --- IA32_APIC_BASE ---

// SDM 3A 11.4.4 and 11.12.5, figure 11-27: xAPIC <-> disabled, xAPIC -> x2APIC -> disabled.
bool Lapic::set_apic_base(uint64_t value) {
  const uint64_t address_mask =
      config_.phys_bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << config_.phys_bits) - 1;
  const uint64_t flags =
      kApicBaseBsp | kApicBaseEnable | (config_.has_x2apic ? kApicBaseX2apic : 0);
  const uint64_t legal = (address_mask & ~uint64_t{0xfff}) | flags;
  if ((value & ~legal) != 0) return false;

  const bool enable = (value & kApicBaseEnable) != 0;
  const bool x2apic = (value & kApicBaseX2apic) != 0;
  if (x2apic && !enable) return false;
  if (x2apic && !is_enabled()) return false;
  if (!x2apic && enable && is_x2apic()) return false;

  const bool was_x2apic = is_x2apic();
  apic_base_.store(value, std::memory_order_relaxed);
  if (!enable) {
    // Enabling it again finds the power-on state (SDM 3A 11.4.3).
    clear_registers();
    announce_timer(clock_.monotonic_ns());
  } else if (x2apic && !was_x2apic) {
    set_mode_registers();
  }
  refresh_lint0();
  return true;
}

// --- State ---

LapicState Lapic::save() const {
  LapicState state;
  for (uint32_t i = 0; i < state.regs.size(); ++i) state.regs[i] = reg(i << 4);
  state.regs[kCurrentCount >> 4] = timer_.current_count(clock_.monotonic_ns());
  state.apic_base = apic_base_bits();
  state.tsc_deadline = tsc_deadline_;
  state.errors = errors_.load(std::memory_order_relaxed);
  state.error_irq_armed = error_irq_armed_.load(std::memory_order_relaxed);
  const uint32_t attention = attention_.load(std::memory_order_acquire);
  state.nmis_pending = static_cast<uint8_t>((attention & kNmiCount) / kOneNmi);
  state.init_pending = (attention & kInitBit) != 0;
  if ((attention & kSipiBit) != 0) {
    state.sipi_pending = static_cast<uint8_t>(attention >> kSipiVectorShift);
  }
  state.extint_pending = (attention & kExtIntBit) != 0;
  state.lint0 = lint0_.load(std::memory_order_relaxed);
  return state;
}

// A snapshot is input: what no sequence of writes could have made is brought into shape.
void Lapic::restore_registers(const LapicState& state) {
  const auto saved = [&](uint32_t offset) { return state.regs[offset >> 4]; };
  clear_registers();
  set_reg(kTpr, saved(kTpr) & 0xff);
  if (!is_x2apic()) {
    set_reg(kLdr, saved(kLdr) & 0xff00'0000);
    set_reg(kDfr, saved(kDfr) | 0x0fff'ffff);
  }
  set_reg(kSpurious, saved(kSpurious) & (0xff | kSpuriousEnable | kSpuriousFocus));
  for (uint32_t offset = kIsr; offset < kEsr; offset += 0x10) set_reg(offset, saved(offset));
  for (const uint32_t bank : {kIsr, kTmr, kIrr}) set_reg(bank, saved(bank) & 0xffff'0000);
  set_reg(kEsr, saved(kEsr) & 0xff);
  set_reg(kIcrLow, saved(kIcrLow) & kIcrWritable);
  set_reg(kIcrHigh, is_x2apic() ? saved(kIcrHigh) : saved(kIcrHigh) & 0xff00'0000);
  const uint32_t forced = is_software_enabled() ? 0 : kLvtMasked;
  for (uint32_t lvt = kLvtTimer; lvt <= kLvtError; lvt += 0x10) {
    // The virtual wire entry of power-on is unmasked although the APIC is software-disabled.
    const bool keep_unmasked = lvt == kLvtLint0 && config_.is_bsp && config_.virtual_wire;
    set_reg(lvt, (saved(lvt) & lvt_writable(lvt)) | (keep_unmasked ? 0 : forced));
  }
  set_reg(kDivide, saved(kDivide) & 0xb);
  update_ppr();
}

void Lapic::restore(const LapicState& state) {
  uint64_t base = state.apic_base;
  if ((base & kApicBaseEnable) == 0) base &= ~kApicBaseX2apic;
  apic_base_.store(base, std::memory_order_relaxed);
  restore_registers(state);

  errors_.store(state.errors & 0xff, std::memory_order_relaxed);
  error_irq_armed_.store(state.error_irq_armed, std::memory_order_relaxed);
  lint0_.store(state.lint0, std::memory_order_relaxed);
  uint32_t attention = state.nmis_pending > 2 ? 2 * kOneNmi : state.nmis_pending * kOneNmi;
  if (state.init_pending) attention |= kInitBit;
  if (state.extint_pending) attention |= kExtIntBit;
  if (state.sipi_pending) {
    attention |= kSipiBit | uint32_t{*state.sipi_pending} << kSipiVectorShift;
  }
  if (highest(kIrr) >= 0) attention |= kIrrBit;
  attention_.store(attention, std::memory_order_release);

  const uint64_t now_ns = clock_.monotonic_ns();
  timer_.set_mode(static_cast<ApicTimerMode>((reg(kLvtTimer) >> kLvtTimerModeShift) & 3U), now_ns);
  timer_.set_divide(reg(kDivide), now_ns);
  timer_.set_counts(state.regs[kInitialCount >> 4], state.regs[kCurrentCount >> 4], now_ns);
  set_reg(kInitialCount, timer_.initial_count());
  refresh_lint0();
  if (timer_.mode() == ApicTimerMode::TscDeadline) set_tsc_deadline(state.tsc_deadline);
  announce_timer(now_ns);
  host_.wake();
}

}  // namespace trapeze
