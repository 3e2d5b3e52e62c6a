// What a device sees of the interrupt controllers: wires and messages. Implemented by the
// accelerator (KVM's in-kernel chips, or the models in irq/chip).
#pragma once

#include <cstdint>
#include <memory>

#include "base/fd.h"
#include "base/strong.h"
#include "memory/guest_addr.h"

namespace trapeze {

// A message-signalled interrupt as the device's MSI-X table holds it (SDM 3A 11.11).
struct MsiMessage {
  uint64_t address = 0;
  uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

// A message that is sent by writing to an eventfd (KVM: irqfd), so that anything that has the fd
// can send it. One at a time calls set() and hold(); signal() from any thread.
class MsiEvent {
 public:
  virtual ~MsiEvent() = default;
  virtual bool set(const MsiMessage& message) = 0;  // false: cannot be had, use send_msi()
  // What is written from now on stays in the eventfd; the next set() sends it, as one.
  virtual void hold() = 0;
  virtual void signal() = 0;
  virtual const Fd& event() const = 0;
};

// Where a guest rings: a guest physical address, or a port.
struct DoorbellPlace {
  enum class Space : uint8_t { Memory, Ports };
  Space space = Space::Memory;
  uint64_t address = 0;
};

class InterruptSink {
 public:
  virtual ~InterruptSink() = default;
  // Level of a wire; edge-triggered pins see the rising edge. Any thread, may be repeated.
  virtual void set_irq_level(Gsi gsi, bool asserted) = 0;
  // Any thread. An address that is no MSI address is ignored.
  virtual void send_msi(const MsiMessage& message) = 0;

  // What the kernel can do for a device, where there is a kernel that can. The sink outlives what
  // it gives. Null: only send_msi().
  virtual std::unique_ptr<MsiEvent> create_msi_event() { return nullptr; }
  // From now on a write of any width there adds one to `event` and does not come to the device,
  // until the doorbell is unbound. False: it comes to the device as ever. Any thread.
  virtual bool bind_doorbell(const DoorbellPlace& /*place*/, const Fd& /*event*/) { return false; }
  virtual void unbind_doorbell(const DoorbellPlace& /*place*/, const Fd& /*event*/) {}
  // Guests ring faster at a port than in memory.
  virtual bool prefers_port_doorbells() const { return false; }
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
