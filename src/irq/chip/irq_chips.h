// IrqChips: the interrupt controllers of the board around the local APICs: I/O APIC, 8259 pair and
// PIT, and the wires between them (docs/memory-map.md). Implements InterruptSink for devices.
//
// GSI n is I/O APIC pin n. GSI 1 and 3..15 are also 8259 inputs of the same number; GSI 2 is the
// PIT, which is 8259 input 0. The 8259s' INTR output goes to LINT0 of the BSP (through
// IrqChipsHost) and to I/O APIC pin 0 (for ExtINT by the I/O APIC).
//
// Any thread. One mutex guards 8259s and PIT, the I/O APIC has its own, taken after it; callbacks
// run with them held and must not call back, except deadline_ns() (an atomic).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "base/strong.h"
#include "irq/chip/apic_message.h"
#include "irq/chip/ioapic.h"
#include "irq/chip/pic.h"
#include "irq/chip/pit.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

class IrqChipsHost {
 public:
  virtual ~IrqChipsHost() = default;
  // INTR of the 8259 pair changed: Lapic::set_lint0() of the BSP. Any thread.
  virtual void pic_output_changed(bool asserted) = 0;
  // next_deadline_ns() changed: the thread that calls run_timers() must look again. Any thread.
  virtual void deadline_changed() = 0;
};

struct IrqChipsState {
  IoApicState ioapic;
  PicState pic;
  PitState pit;
  bool operator==(const IrqChipsState&) const = default;
};

class IrqChips final : public InterruptSink {
 public:
  // All must outlive this. `messages` is the ApicBus (or KVM, with a split irqchip).
  IrqChips(const Clock& clock, ApicMessageSink& messages, IrqChipsHost& host);

  void set_irq_level(Gsi gsi, bool asserted) override;
  void send_msi(const MsiMessage& message) override;

  // Ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40..0x43, 0x61. Wider accesses go byte by byte
  // to successive ports; a byte that is not ours reads 0xff and drops writes.
  static bool handles(Port port);
  uint32_t pio_read(Port port, Width width);
  void pio_write(Port port, Width width, uint32_t value);
  // The I/O APIC page.
  uint64_t ioapic_read(uint64_t offset, Width width) { return ioapic_.mmio_read(offset, width); }
  void ioapic_write(uint64_t offset, Width width, uint64_t value) {
    ioapic_.mmio_write(offset, width, value);
  }
  void eoi(uint8_t vector) { ioapic_.eoi(vector); }  // LapicHost::broadcast_eoi
  // INTA: when Lapic::extint_pending(). The vector to deliver.
  uint8_t acknowledge_pic();

  // The PIT. Absolute CLOCK_MONOTONIC ns.
  std::optional<uint64_t> next_deadline_ns() const;
  void run_timers(uint64_t now_ns);

  void reset();
  IrqChipsState save() const;
  void restore(const IrqChipsState& state);

 private:
  uint8_t read_port(Port port);
  void write_port(Port port, uint8_t value);
  void after_pit(uint64_t now_ns);
  void after_pic();
  void drive_pit_line(bool asserted);
  void drive_pic_output(bool asserted);

  const Clock& clock_;
  IrqChipsHost& host_;
  ApicMessageSink& messages_;
  mutable std::mutex mutex_;
  Pic pic_;  // guarded by mutex_
  Pit pit_;  // guarded by mutex_
  bool pic_output_ = false;
  static constexpr uint64_t kNoDeadline = ~uint64_t{0};
  std::atomic<uint64_t> deadline_ns_{kNoDeadline};
  IoApic ioapic_;
};

}  // namespace trapeze
