#include "irq/chip/irq_chips.h"

namespace trapeze {

// The board's wires; arch/x86/layout.h (same level, not to be included) has the same numbers.
static constexpr unsigned kIsaIrqs = 16;
static constexpr unsigned kPitGsi = 2;
static constexpr unsigned kPitIrq = 0;
static constexpr unsigned kPicOutputPin = 0;

IrqChips::IrqChips(const Clock& clock, ApicMessageSink& messages, IrqChipsHost& host)
    : clock_(clock), host_(host), messages_(messages), ioapic_(messages) {
  pit_.reset(clock_.monotonic_ns());
}

void IrqChips::set_irq_level(Gsi gsi, bool asserted) {
  const unsigned pin = gsi.raw();
  // Pins 0 and 2 have their own sources on this board: the 8259s and the PIT.
  if (pin == kPicOutputPin || pin == kPitGsi) return;
  if (pin < kIsaIrqs) {
    const std::lock_guard lock(mutex_);
    pic_.set_level(pin, asserted);
    after_pic();
  }
  ioapic_.set_level(pin, asserted);
}

void IrqChips::send_msi(const MsiMessage& message) {
  if (const std::optional<ApicMessage> parsed = parse_msi(message)) messages_.send(*parsed);
}

bool IrqChips::handles(Port port) { return Pic::handles(port) || Pit::handles(port); }

uint32_t IrqChips::pio_read(Port port, Width width) {
  const std::lock_guard lock(mutex_);
  uint32_t value = 0;
  for (unsigned i = 0; i < bytes_of(width) && i < 4; ++i) {
    value |= uint32_t{read_port(Port(static_cast<uint16_t>(port.raw() + i)))} << (8 * i);
  }
  return value;
}

void IrqChips::pio_write(Port port, Width width, uint32_t value) {
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < bytes_of(width) && i < 4; ++i) {
    write_port(Port(static_cast<uint16_t>(port.raw() + i)), static_cast<uint8_t>(value >> (8 * i)));
  }
}

uint8_t IrqChips::read_port(Port port) {
  if (Pit::handles(port)) return pit_.read(port, clock_.monotonic_ns());
  if (!Pic::handles(port)) return 0xff;
  const uint8_t value = pic_.read(port);
  after_pic();  // a poll acknowledges
  return value;
}

void IrqChips::write_port(Port port, uint8_t value) {
  if (Pit::handles(port)) {
    const uint64_t now_ns = clock_.monotonic_ns();
    after_pit(now_ns);  // an edge that is due belongs to the old setting
    pit_.write(port, value, now_ns);
    after_pit(now_ns);
  } else if (Pic::handles(port)) {
    pic_.write(port, value);
    after_pic();
  }
}

uint8_t IrqChips::acknowledge_pic() {
  const std::lock_guard lock(mutex_);
  const uint8_t vector = pic_.acknowledge();
  // INTR falls with the INTA cycle, so that edge-triggered listeners see the next request.
  drive_pic_output(false);
  after_pic();
  return vector;
}

void IrqChips::drive_pic_output(bool asserted) {
  if (asserted == pic_output_) return;
  pic_output_ = asserted;
  ioapic_.set_level(kPicOutputPin, asserted);
  host_.pic_output_changed(asserted);
}

void IrqChips::after_pic() { drive_pic_output(pic_.intr()); }

void IrqChips::drive_pit_line(bool asserted) {
  pic_.set_level(kPitIrq, asserted);
  after_pic();
  ioapic_.set_level(kPitGsi, asserted);
}

void IrqChips::after_pit(uint64_t now_ns) {
  const Pit::Output output = pit_.poll(now_ns);
  if (output.edge) {
    drive_pit_line(false);
    drive_pit_line(true);
  }
  if (output.edge || output.changed) drive_pit_line(output.level);
  const uint64_t deadline = pit_.next_deadline_ns().value_or(kNoDeadline);
  // Relaxed: a plain value for next_deadline_ns(); deadline_changed() synchronises by itself.
  if (deadline_ns_.exchange(deadline, std::memory_order_relaxed) != deadline) {
    host_.deadline_changed();
  }
}

std::optional<uint64_t> IrqChips::next_deadline_ns() const {
  const uint64_t deadline = deadline_ns_.load(std::memory_order_relaxed);
  return deadline == kNoDeadline ? std::nullopt : std::optional(deadline);
}

void IrqChips::run_timers(uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  after_pit(now_ns);
}

void IrqChips::reset() {
  const std::lock_guard lock(mutex_);
  const uint64_t now_ns = clock_.monotonic_ns();
  ioapic_.reset();
  pic_.reset();
  pit_.reset(now_ns);
  after_pic();
  after_pit(now_ns);
}

IrqChipsState IrqChips::save() const {
  const std::lock_guard lock(mutex_);
  return {ioapic_.save(), pic_.save(), pit_.save(clock_.monotonic_ns())};
}

void IrqChips::restore(const IrqChipsState& state) {
  const std::lock_guard lock(mutex_);
  const uint64_t now_ns = clock_.monotonic_ns();
  ioapic_.restore(state.ioapic);
  pic_.restore(state.pic);
  pit_.restore(state.pit, now_ns);
  // The I/O APIC's wires are part of its state; the local APIC is told.
  pic_output_ = pic_.intr();
  host_.pic_output_changed(pic_output_);
  after_pit(now_ns);
}

}  // namespace trapeze
