// The four INTx wires of a PCI bus. Level-triggered and shared: a wire is high while any function
// holds it. Single functions only use INTA#. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "arch/x86/acpi/pci_interrupts.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

class IntxWires {
 public:
  explicit IntxWires(InterruptSink& sink) : sink_(sink) {}

  void set(unsigned slot, bool asserted) {
    const std::lock_guard lock(mutex_);
    uint32_t& holders = holders_[slot % 4];
    const uint32_t bit = 1U << (slot % 32);
    const uint32_t updated = asserted ? holders | bit : holders & ~bit;
    if ((updated != 0) != (holders != 0)) sink_.set_irq_level(pci_intx_gsi(slot, 0), updated != 0);
    holders = updated;
  }

 private:
  InterruptSink& sink_;
  std::mutex mutex_;
  std::array<uint32_t, 4> holders_{};  // one bit a slot
};

// A function's pin on those wires; one that is not connected does nothing.
class IntxPin {
 public:
  IntxPin() = default;
  IntxPin(IntxWires& wires, unsigned slot) : wires_(&wires), slot_(slot) {}
  void set(bool asserted) const {
    if (wires_ != nullptr) wires_->set(slot_, asserted);
  }

 private:
  IntxWires* wires_ = nullptr;
  unsigned slot_ = 0;
};

}  // namespace trapeze
