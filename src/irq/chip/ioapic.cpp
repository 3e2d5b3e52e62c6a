#include "irq/chip/ioapic.h"

namespace trapeze {

namespace {

// Offsets in the page (82093AA 3.1; the EOI register is ICH's).
constexpr uint64_t kSelectOffset = 0x00;
constexpr uint64_t kWindowOffset = 0x10;
constexpr uint64_t kEoiOffset = 0x40;

// Indirect registers.
constexpr uint8_t kIdReg = 0;
constexpr uint8_t kVersionReg = 1;
constexpr uint8_t kArbitrationReg = 2;
constexpr uint8_t kRedirectionReg = 0x10;

// A redirection entry (82093AA 3.2.4).
constexpr uint64_t kModeMask = 7U << 8;
constexpr uint64_t kLogical = 1U << 11;
constexpr uint64_t kDeliveryStatus = 1U << 12;  // read-only; a send is never pending here
constexpr uint64_t kRemoteIrr = 1U << 14;       // read-only
constexpr uint64_t kLevel = 1U << 15;
constexpr uint64_t kMasked = 1U << 16;
constexpr uint64_t kLowWritable = 0x1'ffffU & ~(kDeliveryStatus | kRemoteIrr);
constexpr uint64_t kHighWritable = uint64_t{0xff} << 56;  // destination

constexpr DeliveryMode mode_of(uint64_t entry) {
  return static_cast<DeliveryMode>((entry & kModeMask) >> 8);
}
constexpr uint8_t vector_of(uint64_t entry) { return static_cast<uint8_t>(entry); }

// SMI, NMI, INIT and ExtINT are edge-triggered whatever bit 15 says: no EOI would ever come.
constexpr bool is_level(uint64_t entry) {
  const DeliveryMode mode = mode_of(entry);
  return (entry & kLevel) != 0 &&
         (mode == DeliveryMode::Fixed || mode == DeliveryMode::LowestPriority);
}

}  // namespace

uint64_t IoApic::mmio_read(uint64_t offset, Width width) {
  const std::lock_guard lock(mutex_);
  uint64_t value = 0;
  if ((offset & ~uint64_t{3}) == kSelectOffset) value = state_.select;
  if ((offset & ~uint64_t{3}) == kWindowOffset) value = read_selected();
  return (value >> (8 * (offset & 3))) & all_ones(width);
}

void IoApic::mmio_write(uint64_t offset, Width width, uint64_t value) {
  const std::lock_guard lock(mutex_);
  const auto low = static_cast<uint32_t>(value & all_ones(width));
  if (offset == kSelectOffset) state_.select = static_cast<uint8_t>(low);
  if (offset == kWindowOffset) write_selected(low);
  if (offset == kEoiOffset) eoi_locked(static_cast<uint8_t>(low));
}

uint32_t IoApic::read_selected() const {
  if (state_.select >= kRedirectionReg && state_.select < kRedirectionReg + 2 * kPins) {
    const unsigned index = state_.select - unsigned{kRedirectionReg};
    const uint64_t entry = state_.redirection[index / 2];
    return static_cast<uint32_t>((index & 1U) != 0 ? entry >> 32 : entry);
  }
  switch (state_.select) {
    case kIdReg:
    case kArbitrationReg:  // loaded from the ID; there is no APIC bus to arbitrate
      return state_.id << 24;
    case kVersionReg:
      return kVersion | (kPins - 1) << 16;
    default:
      return 0;
  }
}

void IoApic::write_selected(uint32_t value) {
  if (state_.select == kIdReg) state_.id = (value >> 24) & 0xfU;
  if (state_.select < kRedirectionReg || state_.select >= kRedirectionReg + 2 * kPins) return;
  const unsigned index = state_.select - unsigned{kRedirectionReg};
  write_redirection(index / 2, (index & 1U) != 0, value);
}

void IoApic::write_redirection(unsigned pin, bool high, uint32_t value) {
  uint64_t& entry = state_.redirection[pin];
  if (high) {
    entry = (entry & ~kHighWritable) | (uint64_t{value} << 32 & kHighWritable);
  } else {
    entry = (entry & ~kLowWritable) | (value & kLowWritable);
  }
  // Operating systems clear a stuck Remote IRR by making the entry edge-triggered for a moment.
  if (!is_level(entry)) entry &= ~kRemoteIrr;
  // A level that waited behind the mask goes out now; edges behind a mask are lost (82093AA 3.2.4).
  if (is_level(entry)) service(pin);
}

void IoApic::set_level(unsigned pin, bool asserted) {
  if (pin >= kPins) return;
  const std::lock_guard lock(mutex_);
  const uint32_t bit = 1U << pin;
  const bool was = (state_.lines & bit) != 0;
  state_.lines = asserted ? state_.lines | bit : state_.lines & ~bit;
  if (asserted && (!was || is_level(state_.redirection[pin]))) service(pin);
}

// The pin asks, by an edge or by its level: sends unless masked or not yet acknowledged.
void IoApic::service(unsigned pin) {
  uint64_t& entry = state_.redirection[pin];
  if ((state_.lines & 1U << pin) == 0) return;
  if ((entry & (kMasked | kRemoteIrr)) != 0) return;
  ApicMessage message;
  message.mode = mode_of(entry);
  message.vector = vector_of(entry);
  message.level_triggered = is_level(entry);
  message.logical = (entry & kLogical) != 0;
  message.destination = static_cast<uint32_t>(entry >> 56);
  // Without a taker there will be no EOI: Remote IRR would be set forever.
  if (sink_.send(message) && message.level_triggered) entry |= kRemoteIrr;
}

void IoApic::eoi(uint8_t vector) {
  const std::lock_guard lock(mutex_);
  eoi_locked(vector);
}

void IoApic::eoi_locked(uint8_t vector) {
  for (unsigned pin = 0; pin < kPins; ++pin) {
    uint64_t& entry = state_.redirection[pin];
    if (vector_of(entry) != vector || (entry & kRemoteIrr) == 0) continue;
    entry &= ~kRemoteIrr;
    service(pin);  // still asserted: again
  }
}

void IoApic::reset() {
  const std::lock_guard lock(mutex_);
  state_.id = 0;
  state_.select = 0;
  state_.redirection.fill(kMasked);
}

IoApicState IoApic::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void IoApic::restore(const IoApicState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  state_.id &= 0xf;
  state_.lines &= (1U << kPins) - 1;
  for (uint64_t& entry : state_.redirection) {
    entry &= kLowWritable | kHighWritable | kRemoteIrr;
    if (!is_level(entry)) entry &= ~kRemoteIrr;
  }
}

}  // namespace trapeze
