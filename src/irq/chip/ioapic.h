// IoApic: an I/O APIC with 24 pins (82093AA, with the EOI register of version 0x20). Any thread:
// one mutex, held while the message goes to the sink, so the sink must not call back.
// Pin polarity is stored and ignored: `asserted` always means that the device asks.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "base/strong.h"
#include "irq/chip/apic_message.h"

namespace trapeze {

struct IoApicState {
  static constexpr unsigned kPins = 24;
  uint32_t id = 0;
  uint8_t select = 0;
  std::array<uint64_t, kPins> redirection{};
  uint32_t lines = 0;  // bit n: pin n is asserted
  bool operator==(const IoApicState&) const = default;
};

class IoApic {
 public:
  static constexpr unsigned kPins = IoApicState::kPins;
  static constexpr uint32_t kVersion = 0x20;

  explicit IoApic(ApicMessageSink& sink) : sink_(sink) { reset(); }

  // The 4 KiB page at 0xfec00000; any offset and width gets an answer.
  uint64_t mmio_read(uint64_t offset, Width width);
  void mmio_write(uint64_t offset, Width width, uint64_t value);

  void set_level(unsigned pin, bool asserted);  // an unknown pin is ignored
  void eoi(uint8_t vector);                     // a local APIC's EOI broadcast

  void reset();  // the wires keep their level
  IoApicState save() const;
  void restore(const IoApicState& state);

 private:
  uint32_t read_selected() const;
  void write_selected(uint32_t value);
  void write_redirection(unsigned pin, bool high, uint32_t value);
  void eoi_locked(uint8_t vector);
  void service(unsigned pin);

  ApicMessageSink& sink_;
  mutable std::mutex mutex_;
  IoApicState state_;  // guarded by mutex_
};

}  // namespace trapeze
