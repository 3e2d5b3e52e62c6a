// Pic: the two cascaded 8259A interrupt controllers of a PC, with the edge/level registers of PCI
// chipsets (ELCR, ports 0x4d0 and 0x4d1, which replace LTIM). Not thread-safe: IrqChips locks.
#pragma once

#include <array>
#include <cstdint>

#include "base/strong.h"

namespace trapeze {

enum class PicInitStep : uint8_t { Ready, Icw2, Icw3, Icw4 };

struct Pic8259State {
  uint8_t lines = 0;       // wires as they are now
  uint8_t edge_latch = 0;  // rising edges not yet acknowledged
  uint8_t imr = 0xff;
  uint8_t isr = 0;
  uint8_t elcr = 0;  // 1: level-triggered
  uint8_t vector_base = 0;
  uint8_t lowest = 7;  // the input with the lowest priority (rotation)
  PicInitStep init_step = PicInitStep::Ready;
  bool single = false;  // ICW1: no ICW3 follows
  bool wants_icw4 = false;
  bool auto_eoi = false;
  bool rotate_on_auto_eoi = false;
  bool special_mask = false;
  bool special_fully_nested = false;
  bool poll = false;      // the next read acknowledges
  bool read_isr = false;  // port 0 reads ISR instead of IRR
  bool operator==(const Pic8259State&) const = default;
};

struct PicState {
  Pic8259State primary, secondary;
  bool operator==(const PicState&) const = default;
};

class Pic {
 public:
  static bool handles(Port port);
  uint8_t read(Port port);
  void write(Port port, uint8_t value);

  void set_level(unsigned irq, bool asserted);  // 0..15; the cascade input 2 is ignored
  bool intr() const;                            // the INTR output
  uint8_t acknowledge();  // INTA cycles: the vector; IRQ 7 or 15 when nothing asks any more

  void reset();  // the wires keep their level
  PicState save() const { return state_; }
  void restore(const PicState& state);

 private:
  uint8_t read_chip(Pic8259State& chip, bool data_port);
  void write_command(Pic8259State& chip, uint8_t value);
  void write_data(Pic8259State& chip, uint8_t value);
  uint8_t requests(const Pic8259State& chip) const;
  int winner(const Pic8259State& chip) const;
  uint8_t poll_chip(Pic8259State& chip);

  PicState state_;
};

}  // namespace trapeze
