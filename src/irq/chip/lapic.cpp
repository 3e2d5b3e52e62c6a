#include "irq/chip/lapic.h"

#include <bit>

#include "irq/chip/lapic_registers.h"

namespace trapeze {

using namespace apic_reg;

namespace {

constexpr uint32_t word_of(uint32_t bank, uint8_t vector) {
  return (bank >> 4) + static_cast<uint32_t>(vector >> 5);
}
constexpr uint32_t bit_of(uint8_t vector) { return 1U << (vector & 31U); }
constexpr uint8_t class_of(uint32_t vector) { return static_cast<uint8_t>(vector >> 4); }

}  // namespace

Lapic::Lapic(const LapicConfig& config, const Clock& clock, LapicHost& host)
    : config_(config), clock_(clock), host_(host) {
  reset();
}

bool Lapic::is_enabled() const { return (apic_base_bits() & kApicBaseEnable) != 0; }

bool Lapic::is_x2apic() const {
  constexpr uint64_t kBoth = kApicBaseEnable | kApicBaseX2apic;
  return (apic_base_bits() & kBoth) == kBoth;
}

bool Lapic::is_software_enabled() const {
  return is_enabled() && (reg(kSpurious) & kSpuriousEnable) != 0;
}

bool Lapic::is_mmio_visible() const { return is_enabled() && !is_x2apic(); }

uint8_t Lapic::priority() const { return static_cast<uint8_t>(reg(kPpr)); }

// SDM 3A 11.6.2. A sender of 8-bit destinations (xAPIC, I/O APIC, MSI) reaches x2APIC CPUs too: the
// value is extended by zeros.
bool Lapic::matches(const ApicMessage& message) const {
  const uint32_t destination = message.destination;
  if (destination == (message.wide ? 0xffff'ffffU : 0xffU)) return true;
  if (!message.logical) return destination == id();
  const uint32_t ldr = reg(kLdr);
  if (is_x2apic()) {
    return (destination >> 16) == (ldr >> 16) && (destination & ldr & 0xffffU) != 0;
  }
  if (destination > 0xff) return false;
  const uint32_t logical_id = ldr >> 24;
  switch (reg(kDfr) >> 28) {
    case 0xf:  // flat
      return (logical_id & destination) != 0;
    case 0x0:  // cluster
      return (logical_id >> 4) == (destination >> 4) && (logical_id & destination & 0xfU) != 0;
    default:
      return false;
  }
}

// --- Delivery, any thread ---

bool Lapic::deliver(const ApicMessage& message) {
  if (!is_enabled()) return false;
  switch (message.mode) {
    case DeliveryMode::Fixed:
    case DeliveryMode::LowestPriority:
      if (!is_software_enabled()) return false;
      accept_fixed(message.vector, message.level_triggered);
      return true;
    case DeliveryMode::Nmi:
      queue_nmi();
      return true;
    case DeliveryMode::Init:
      // The level de-assert only synchronised the arbitration IDs of the first APICs.
      if (!message.level_triggered || message.asserted) queue_init();
      return true;
    case DeliveryMode::StartUp:
      queue_sipi(message.vector);
      return true;
    case DeliveryMode::ExtInt:
      raise_attention(kExtIntBit);
      return true;
    case DeliveryMode::Smi:  // there is no SMM
    case DeliveryMode::Reserved:
      return false;
  }
  return false;
}

void Lapic::raise_attention(uint32_t bits) {
  // Release: whoever sees the bit (acquire in take_*() and accept()) sees IRR and TMR as well.
  attention_.fetch_or(bits, std::memory_order_acq_rel);
  host_.wake();
}

void Lapic::accept_fixed(uint8_t vector, bool level_triggered) {
  if (vector < kFirstLegalVector) return record_error(kEsrReceiveIllegalVector);
  // TMR first: the EOI of this interrupt must find it.
  std::atomic<uint32_t>& tmr = regs_[word_of(kTmr, vector)];
  if (level_triggered) {
    tmr.fetch_or(bit_of(vector), std::memory_order_relaxed);
  } else {
    tmr.fetch_and(~bit_of(vector), std::memory_order_relaxed);
  }
  regs_[word_of(kIrr, vector)].fetch_or(bit_of(vector), std::memory_order_release);
  raise_attention(kIrrBit);
}

void Lapic::queue_nmi() {
  uint32_t old = attention_.load(std::memory_order_relaxed);
  do {
    if ((old & kNmiCount) == 2 * kOneNmi) return;  // two wait already: this one is lost
  } while (!attention_.compare_exchange_weak(old, old + kOneNmi, std::memory_order_acq_rel,
                                             std::memory_order_relaxed));
  host_.wake();
}

// An INIT puts the CPU into wait-for-SIPI: only a SIPI that comes after it counts.
void Lapic::queue_init() {
  uint32_t old = attention_.load(std::memory_order_relaxed);
  while (!attention_.compare_exchange_weak(old, (old & ~kSipi) | kInitBit,
                                           std::memory_order_acq_rel, std::memory_order_relaxed)) {
  }
  host_.wake();
}

void Lapic::queue_sipi(uint8_t vector) {
  const uint32_t sipi = kSipiBit | uint32_t{vector} << kSipiVectorShift;
  uint32_t old = attention_.load(std::memory_order_relaxed);
  while (!attention_.compare_exchange_weak(old, (old & ~kSipi) | sipi, std::memory_order_acq_rel,
                                           std::memory_order_relaxed)) {
  }
  host_.wake();
}

// SDM 3A 11.5.3. The interrupt comes once; a write to ESR re-arms it. That also ends the recursion
// when the error entry itself holds an illegal vector.
void Lapic::record_error(uint32_t esr_bit) {
  errors_.fetch_or(esr_bit, std::memory_order_relaxed);
  const uint32_t lvt = reg(kLvtError);
  if ((lvt & kLvtMasked) != 0) return;
  if (error_irq_armed_.exchange(false, std::memory_order_relaxed)) deliver_lvt(lvt & kLvtVector);
}

// A local interrupt source fires (SDM 3A 11.5.1). Entries without a delivery mode pass Fixed (0).
void Lapic::deliver_lvt(uint32_t lvt) {
  if ((lvt & kLvtMasked) != 0) return;
  switch (static_cast<DeliveryMode>((lvt & kLvtMode) >> kLvtModeShift)) {
    case DeliveryMode::Fixed:
      return accept_fixed(static_cast<uint8_t>(lvt & kLvtVector), (lvt & kLvtLevel) != 0);
    case DeliveryMode::Nmi:
      return queue_nmi();
    case DeliveryMode::Init:
      return queue_init();
    case DeliveryMode::ExtInt:  // a level, not an event: is_extint_wire_active()
    case DeliveryMode::Smi:
    case DeliveryMode::LowestPriority:
    case DeliveryMode::StartUp:
    case DeliveryMode::Reserved:
      return;
  }
}

// --- LINT0 ---

bool Lapic::is_extint_wire_active() const {
  if (!lint0_.load(std::memory_order_relaxed)) return false;
  if (!is_enabled()) return true;  // the pin is the CPU's INTR then (SDM 3A 11.4.3)
  const uint32_t lvt = reg(kLvtLint0);
  constexpr auto kExtInt = static_cast<uint32_t>(DeliveryMode::ExtInt) << kLvtModeShift;
  return (lvt & kLvtMasked) == 0 && (lvt & kLvtMode) == kExtInt;
}

// The wire (any thread) and the LVT entry (own thread) may change at once. Each writer stores its
// half, then updates the bit by an acq_rel RMW, then looks again: the second RMW in the order of
// attention_ sees both halves, so the bit ends up right.
void Lapic::refresh_lint0() {
  while (true) {
    const bool active = is_extint_wire_active();
    if (active) {
      attention_.fetch_or(kLint0Bit, std::memory_order_acq_rel);
    } else {
      attention_.fetch_and(~kLint0Bit, std::memory_order_acq_rel);
    }
    if (is_extint_wire_active() != active) continue;
    if (active) host_.wake();
    return;
  }
}

void Lapic::set_lint0(bool asserted) {
  const bool was = lint0_.exchange(asserted, std::memory_order_acq_rel);
  if (was == asserted) return;
  refresh_lint0();
  if (asserted && is_enabled()) deliver_lvt(reg(kLvtLint0));
}

bool Lapic::extint_pending() const {
  if ((attention_.load(std::memory_order_acquire) & (kExtIntBit | kLint0Bit)) == 0) return false;
  return (attention_.load(std::memory_order_relaxed) & kExtIntBit) != 0 || is_extint_wire_active();
}

void Lapic::extint_taken() { attention_.fetch_and(~kExtIntBit, std::memory_order_acq_rel); }

// --- What the vCPU takes ---

bool Lapic::take_nmi() {
  if ((attention_.load(std::memory_order_relaxed) & kNmiCount) == 0) return false;
  // Only this thread takes away, so the count cannot have become 0 in between.
  attention_.fetch_sub(kOneNmi, std::memory_order_acq_rel);
  return true;
}

void Lapic::nmi_unblocked() {
  const uint32_t waiting = attention_.load(std::memory_order_relaxed) & kNmiCount;
  if (waiting == 0) return;
  if (waiting == 2 * kOneNmi) attention_.fetch_sub(kOneNmi, std::memory_order_acq_rel);
  host_.wake();
}

bool Lapic::take_init() {
  if ((attention_.load(std::memory_order_relaxed) & kInitBit) == 0) return false;
  attention_.fetch_and(~kInitBit, std::memory_order_acq_rel);
  return true;
}

std::optional<uint8_t> Lapic::take_sipi() {
  if ((attention_.load(std::memory_order_relaxed) & kSipiBit) == 0) return std::nullopt;
  const uint32_t old = attention_.fetch_and(~kSipi, std::memory_order_acq_rel);
  if ((old & kSipiBit) == 0) return std::nullopt;  // an INIT came in between
  return static_cast<uint8_t>(old >> kSipiVectorShift);
}

int Lapic::highest(uint32_t first_offset) const {
  for (uint32_t word = 8; word-- > 0;) {
    const uint32_t bits = regs_[(first_offset >> 4) + word].load(std::memory_order_relaxed);
    if (bits != 0) return static_cast<int>(word * 32 + 31) - std::countl_zero(bits);
  }
  return -1;
}

std::optional<uint8_t> Lapic::pending_vector() const {
  if ((attention_.load(std::memory_order_acquire) & kIrrBit) == 0) return std::nullopt;
  const int vector = highest(kIrr);
  if (vector < 0) return std::nullopt;
  if (class_of(static_cast<uint32_t>(vector)) <= class_of(reg(kPpr))) return std::nullopt;
  return static_cast<uint8_t>(vector);
}

uint8_t Lapic::accept() {
  const std::optional<uint8_t> vector = pending_vector();
  if (!vector) return static_cast<uint8_t>(reg(kSpurious));
  regs_[word_of(kIrr, *vector)].fetch_and(~bit_of(*vector), std::memory_order_acq_rel);
  const uint32_t isr = kIsr + (*vector >> 5) * 0x10U;
  set_reg(isr, reg(isr) | bit_of(*vector));
  update_ppr();
  // First the flag, then the search: a deliver() in between sets it again.
  attention_.fetch_and(~kIrrBit, std::memory_order_acq_rel);
  if (highest(kIrr) >= 0) attention_.fetch_or(kIrrBit, std::memory_order_acq_rel);
  return *vector;
}

// SDM 3A 11.8.3.1.
void Lapic::update_ppr() {
  const uint32_t tpr_value = reg(kTpr);
  const int in_service = highest(kIsr);
  const uint32_t service_class = in_service < 0 ? 0 : static_cast<uint32_t>(in_service) & 0xf0U;
  set_reg(kPpr, (tpr_value & 0xf0U) >= service_class ? tpr_value : service_class);
}

void Lapic::wake_if_deliverable() {
  if (pending_vector()) host_.wake();
}

void Lapic::end_of_interrupt() {
  const int in_service = highest(kIsr);
  if (in_service < 0) return;
  const auto vector = static_cast<uint8_t>(in_service);
  const uint32_t word = (vector >> 5) * 0x10U;
  set_reg(kIsr + word, reg(kIsr + word) & ~bit_of(vector));
  update_ppr();
  if ((reg(kTmr + word) & bit_of(vector)) != 0) {
    host_.broadcast_eoi(vector);
    // A level-triggered Fixed LINT0 that still asks comes again.
    const uint32_t lvt = reg(kLvtLint0);
    const bool is_lint0 =
        (lvt & (kLvtMode | kLvtLevel)) == kLvtLevel && (lvt & kLvtVector) == vector;
    if (is_lint0 && lint0_.load(std::memory_order_relaxed)) deliver_lvt(lvt);
  }
  wake_if_deliverable();
}

uint8_t Lapic::tpr() const { return static_cast<uint8_t>((reg(kTpr) >> 4) & 0xfU); }

void Lapic::set_tpr(uint8_t cr8) {
  set_reg(kTpr, (cr8 & 0xfU) << 4);
  update_ppr();
  wake_if_deliverable();
}

// --- Timer ---

// Before any register of the timer is read or written, so that an expiry that is due, but that the
// vCPU has not been told of, is not lost or taken for one of the new setting.
void Lapic::run_timer(uint64_t now_ns) {
  if (!timer_.expire(now_ns)) return;
  tsc_deadline_ = 0;  // SDM 3A 11.5.4.1
  deliver_lvt(reg(kLvtTimer) & (kLvtVector | kLvtMasked));
}

void Lapic::announce_timer(uint64_t now_ns) {
  run_timer(now_ns);  // a deadline in the past fires before the next instruction
  if (timer_.deadline_ns() == announced_deadline_) return;
  announced_deadline_ = timer_.deadline_ns();
  host_.timer_changed(announced_deadline_);
}

void Lapic::timer_expired(uint64_t now_ns) { announce_timer(now_ns); }

void Lapic::set_tsc_deadline(uint64_t tsc) {
  if (timer_.mode() != ApicTimerMode::TscDeadline) return;  // ignored in the other modes
  const uint64_t now_ns = clock_.monotonic_ns();
  run_timer(now_ns);
  tsc_deadline_ = tsc;
  timer_.set_deadline(tsc == 0 ? std::nullopt : std::optional(host_.tsc_to_ns(tsc)));
  announce_timer(now_ns);
}

void Lapic::tsc_changed() {
  if (tsc_deadline_ != 0) set_tsc_deadline(tsc_deadline_);
}

// --- Reset ---

// SDM 3A 11.4.7.1. Other threads may deliver meanwhile; what they set is cleared or not, as if it
// had come before or after.
void Lapic::clear_registers() {
  const uint32_t tpr_value = reg(kTpr);
  for (uint32_t offset = 0; offset < 0x400; offset += 0x10) set_reg(offset, 0);
  set_reg(kTpr, tpr_value);  // is CR8 as well, which outlives the APIC: callers clear it on reset
  set_reg(kVersion, kApicVersion);
  set_reg(kDfr, 0xffff'ffff);
  set_reg(kSpurious, 0xff);
  for (uint32_t lvt = kLvtTimer; lvt <= kLvtError; lvt += 0x10) set_reg(lvt, kLvtMasked);
  errors_.store(0, std::memory_order_relaxed);
  error_irq_armed_.store(true, std::memory_order_relaxed);
  attention_.fetch_and(~(kIrrBit | kExtIntBit), std::memory_order_acq_rel);
  if (highest(kIrr) >= 0) attention_.fetch_or(kIrrBit, std::memory_order_acq_rel);
  timer_ = ApicTimer{};
  tsc_deadline_ = 0;
  set_mode_registers();
  update_ppr();
}

// What follows from the mode: the form of the ID, and the x2APIC logical ID (SDM 3A 11.12.10.2).
void Lapic::set_mode_registers() {
  if (!is_x2apic()) {
    set_reg(kId, id() << 24);
    return;
  }
  set_reg(kId, id());
  set_reg(kLdr, (id() >> 4) << 16 | 1U << (id() & 0xfU));
}

void Lapic::reset() {
  apic_base_.store(0xfee0'0000 | kApicBaseEnable | (config_.is_bsp ? kApicBaseBsp : 0),
                   std::memory_order_relaxed);
  attention_.fetch_and(~(kInitBit | kSipi), std::memory_order_acq_rel);
  init_reset();
  if (config_.is_bsp && config_.virtual_wire) {
    set_reg(kLvtLint0, static_cast<uint32_t>(DeliveryMode::ExtInt) << kLvtModeShift);
    refresh_lint0();
  }
}

void Lapic::init_reset() {
  attention_.fetch_and(~kNmiCount, std::memory_order_acq_rel);
  set_reg(kTpr, 0);
  clear_registers();
  refresh_lint0();
  announce_timer(clock_.monotonic_ns());
}

}  // namespace trapeze
