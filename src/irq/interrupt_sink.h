// What a device sees of the interrupt controllers: wires and messages. Implemented by the
// accelerator (KVM's in-kernel chips, or the models in irq/chip).
#pragma once

#include <cstdint>

#include "base/strong.h"

namespace trapeze {

// A message-signalled interrupt as the device's MSI-X table holds it (SDM 3A 11.11).
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // Level of a wire; edge-triggered pins see the rising edge. Any thread, may be repeated.
  virtual void set_irq_level(Gsi gsi, bool asserted) = 0;
  // Any thread. An address that is no MSI address is ignored.
  virtual void send_msi(const MsiMessage& message) = 0;
};

// One wire of a device, as the device owns it. Copyable; `sink` must outlive it.
class IrqLine {
 public:
  IrqLine() = default;
  IrqLine(InterruptSink& sink, Gsi gsi) : sink_(&sink), gsi_(gsi) {}
  void set(bool asserted) const {
    if (sink_ != nullptr) sink_->set_irq_level(gsi_, asserted);
  }
  Gsi gsi() const { return gsi_; }

 private:
  InterruptSink* sink_ = nullptr;
  Gsi gsi_;
};

}  // namespace trapeze
