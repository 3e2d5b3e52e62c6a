#include "irq/chip/pic.h"

#include <bit>

namespace trapeze {

namespace {

constexpr uint16_t kPrimaryCommand = 0x20;
constexpr uint16_t kPrimaryData = 0x21;
constexpr uint16_t kSecondaryCommand = 0xa0;
constexpr uint16_t kSecondaryData = 0xa1;
constexpr uint16_t kPrimaryElcr = 0x4d0;
constexpr uint16_t kSecondaryElcr = 0x4d1;

constexpr unsigned kCascade = 2;
constexpr unsigned kSpurious = 7;
// IRQ 0, 1, 2, 8 and 13 are always edge-triggered (ICH datasheet, ELCR1 and ELCR2).
constexpr uint8_t kPrimaryElcrMask = 0xf8;
constexpr uint8_t kSecondaryElcrMask = 0xde;

// Initialisation and operation command words (8259A datasheet).
constexpr uint8_t kIcw1 = 1 << 4;  // in a write to the command port
constexpr uint8_t kIcw1Icw4 = 1 << 0;
constexpr uint8_t kIcw1Single = 1 << 1;
constexpr uint8_t kIcw4AutoEoi = 1 << 1;
constexpr uint8_t kIcw4Nested = 1 << 4;
constexpr uint8_t kOcw3 = 1 << 3;  // in a write to the command port
constexpr uint8_t kOcw3Poll = 1 << 2;

constexpr uint8_t bit(unsigned irq) { return static_cast<uint8_t>(1U << irq); }

// 0 for the input with the highest priority, 8 when no bit is set.
unsigned rank_of_highest(uint8_t inputs, uint8_t lowest) {
  const int first = (lowest + 1) & 7;
  return static_cast<unsigned>(std::countr_zero(std::rotr(inputs, first)));
}

unsigned input_at(unsigned rank, uint8_t lowest) { return (rank + lowest + 1U) & 7U; }

uint8_t own_requests(const Pic8259State& chip) {
  return static_cast<uint8_t>((chip.edge_latch & ~chip.elcr) | (chip.lines & chip.elcr));
}

void end_of_interrupt(Pic8259State& chip, unsigned irq, bool rotate) {
  chip.isr = static_cast<uint8_t>(chip.isr & ~bit(irq));
  if (rotate) chip.lowest = static_cast<uint8_t>(irq);
}

void end_of_highest(Pic8259State& chip, bool rotate) {
  // In special mask mode, a masked level's ISR bit is not ended by the non-specific command.
  const auto candidates = static_cast<uint8_t>(chip.special_mask ? chip.isr & ~chip.imr : chip.isr);
  if (candidates == 0) return;
  const unsigned irq = input_at(rank_of_highest(candidates, chip.lowest), chip.lowest);
  end_of_interrupt(chip, irq, rotate);
}

// The INTA of one input.
void accept(Pic8259State& chip, unsigned irq) {
  chip.edge_latch = static_cast<uint8_t>(chip.edge_latch & ~bit(irq));
  if (!chip.auto_eoi) {
    chip.isr |= bit(irq);
  } else if (chip.rotate_on_auto_eoi) {
    chip.lowest = static_cast<uint8_t>(irq);
  }
}

void write_ocw2(Pic8259State& chip, uint8_t value) {
  const unsigned irq = value & 7U;
  switch (value >> 5) {
    case 0:
      chip.rotate_on_auto_eoi = false;
      return;
    case 1:
      return end_of_highest(chip, false);
    case 3:
      return end_of_interrupt(chip, irq, false);
    case 4:
      chip.rotate_on_auto_eoi = true;
      return;
    case 5:
      return end_of_highest(chip, true);
    case 6:
      chip.lowest = static_cast<uint8_t>(irq);
      return;
    case 7:
      return end_of_interrupt(chip, irq, true);
    default:  // 2: no operation
      return;
  }
}

void write_ocw3(Pic8259State& chip, uint8_t value) {
  if ((value & kOcw3Poll) != 0) {
    chip.poll = true;
  } else if ((value & 2U) != 0) {
    chip.read_isr = (value & 1U) != 0;
  }
  if ((value & 0x40U) != 0) chip.special_mask = (value & 0x20U) != 0;
}

// ICW1. LTIM (bit 3) has no effect where ELCR exists.
void start_init(Pic8259State& chip, uint8_t value) {
  Pic8259State fresh;
  fresh.lines = chip.lines;
  fresh.elcr = chip.elcr;
  fresh.vector_base = chip.vector_base;
  fresh.imr = 0;
  fresh.init_step = PicInitStep::Icw2;
  fresh.single = (value & kIcw1Single) != 0;
  fresh.wants_icw4 = (value & kIcw1Icw4) != 0;
  chip = fresh;
}

}  // namespace

bool Pic::handles(Port port) {
  switch (port.raw()) {
    case kPrimaryCommand:
    case kPrimaryData:
    case kSecondaryCommand:
    case kSecondaryData:
    case kPrimaryElcr:
    case kSecondaryElcr:
      return true;
    default:
      return false;
  }
}

// The secondary's INT output is the primary's input 2: computed, not stored.
uint8_t Pic::requests(const Pic8259State& chip) const {
  const uint8_t own = own_requests(chip);
  if (&chip != &state_.primary) return own;
  return static_cast<uint8_t>(winner(state_.secondary) >= 0 ? own | bit(kCascade)
                                                            : own & ~bit(kCascade));
}

// The input that may interrupt now, or -1: the highest request above everything in service.
int Pic::winner(const Pic8259State& chip) const {
  if (chip.init_step != PicInitStep::Ready) return -1;
  const auto asking = static_cast<uint8_t>(requests(chip) & ~chip.imr);
  if (asking == 0) return -1;
  uint8_t blocking = chip.isr;
  if (chip.special_mask) blocking = static_cast<uint8_t>(blocking & ~chip.imr);
  // Special fully nested: a higher input of the secondary may interrupt a lower one of it.
  if (chip.special_fully_nested && &chip == &state_.primary) {
    blocking = static_cast<uint8_t>(blocking & ~bit(kCascade));
  }
  const unsigned rank = rank_of_highest(asking, chip.lowest);
  if (rank >= rank_of_highest(blocking, chip.lowest)) return -1;
  return static_cast<int>(input_at(rank, chip.lowest));
}

bool Pic::intr() const { return winner(state_.primary) >= 0; }

uint8_t Pic::acknowledge() {
  Pic8259State& primary = state_.primary;
  Pic8259State& secondary = state_.secondary;
  const int irq = winner(primary);
  if (irq < 0) return static_cast<uint8_t>(primary.vector_base + kSpurious);
  accept(primary, static_cast<unsigned>(irq));
  if (irq != static_cast<int>(kCascade)) {
    return static_cast<uint8_t>(primary.vector_base + static_cast<unsigned>(irq));
  }
  const int inner = winner(secondary);
  if (inner < 0) return static_cast<uint8_t>(secondary.vector_base + kSpurious);
  accept(secondary, static_cast<unsigned>(inner));
  return static_cast<uint8_t>(secondary.vector_base + static_cast<unsigned>(inner));
}

// A wire may fall again before the CPU acknowledges. The 8259A then answers with a spurious IRQ 7;
// here pulses have no width, so the latch keeps the edge.
void Pic::set_level(unsigned irq, bool asserted) {
  if (irq >= 16 || irq == kCascade) return;
  Pic8259State& chip = irq < 8 ? state_.primary : state_.secondary;
  const uint8_t mask = bit(irq & 7U);
  if (!asserted) {
    chip.lines = static_cast<uint8_t>(chip.lines & ~mask);
    return;
  }
  if ((chip.lines & mask) == 0) chip.edge_latch |= mask;
  chip.lines |= mask;
}

// The read after a poll command is an acknowledge: bit 7 and the input (8259A "Poll Command").
uint8_t Pic::poll_chip(Pic8259State& chip) {
  chip.poll = false;
  const int irq = winner(chip);
  if (irq < 0) return 0;
  accept(chip, static_cast<unsigned>(irq));
  return static_cast<uint8_t>(0x80 | irq);
}

uint8_t Pic::read_chip(Pic8259State& chip, bool data_port) {
  if (chip.poll) return poll_chip(chip);
  if (data_port) return chip.imr;
  return chip.read_isr ? chip.isr : requests(chip);
}

uint8_t Pic::read(Port port) {
  switch (port.raw()) {
    case kPrimaryCommand:
    case kPrimaryData:
      return read_chip(state_.primary, port.raw() == kPrimaryData);
    case kSecondaryCommand:
    case kSecondaryData:
      return read_chip(state_.secondary, port.raw() == kSecondaryData);
    case kPrimaryElcr:
      return state_.primary.elcr;
    case kSecondaryElcr:
      return state_.secondary.elcr;
    default:
      return 0xff;
  }
}

void Pic::write_command(Pic8259State& chip, uint8_t value) {
  if ((value & kIcw1) != 0) {
    start_init(chip, value);
  } else if ((value & kOcw3) != 0) {
    write_ocw3(chip, value);
  } else {
    write_ocw2(chip, value);
  }
}

void Pic::write_data(Pic8259State& chip, uint8_t value) {
  const PicInitStep after_icw3 = chip.wants_icw4 ? PicInitStep::Icw4 : PicInitStep::Ready;
  switch (chip.init_step) {
    case PicInitStep::Ready:
      chip.imr = value;
      return;
    case PicInitStep::Icw2:
      chip.vector_base = static_cast<uint8_t>(value & 0xf8U);
      chip.init_step = chip.single ? after_icw3 : PicInitStep::Icw3;
      return;
    case PicInitStep::Icw3:  // the board's wiring is fixed
      chip.init_step = after_icw3;
      return;
    case PicInitStep::Icw4:
      chip.auto_eoi = (value & kIcw4AutoEoi) != 0;
      chip.special_fully_nested = (value & kIcw4Nested) != 0;
      chip.init_step = PicInitStep::Ready;
      return;
  }
}

void Pic::write(Port port, uint8_t value) {
  switch (port.raw()) {
    case kPrimaryCommand:
      return write_command(state_.primary, value);
    case kPrimaryData:
      return write_data(state_.primary, value);
    case kSecondaryCommand:
      return write_command(state_.secondary, value);
    case kSecondaryData:
      return write_data(state_.secondary, value);
    case kPrimaryElcr:
      state_.primary.elcr = value & kPrimaryElcrMask;
      return;
    case kSecondaryElcr:
      state_.secondary.elcr = value & kSecondaryElcrMask;
      return;
    default:
      return;
  }
}

void Pic::reset() {
  PicState fresh;
  fresh.primary.lines = state_.primary.lines;
  fresh.secondary.lines = state_.secondary.lines;
  state_ = fresh;
}

void Pic::restore(const PicState& state) {
  state_ = state;
  const auto repair = [](Pic8259State& chip, uint8_t elcr_mask) {
    chip.elcr &= elcr_mask;
    chip.lowest &= 7;
    chip.vector_base &= 0xf8;
    if (chip.init_step > PicInitStep::Icw4) chip.init_step = PicInitStep::Ready;
  };
  repair(state_.primary, kPrimaryElcrMask);
  repair(state_.secondary, kSecondaryElcrMask);
}

}  // namespace trapeze
