// Serial: a 16550A UART (TL16C550D data sheet). 8 ports; the legacy place of COM1 is 0x3f8, GSI 4.
//
// There is no baud rate: a byte written is sent at once, so the transmitter is always empty and a
// guest never waits for it. A character timeout is due at once, too. Interrupts go through IrqLine
// as the chip's one INTR pin drives it.
//
// Any thread; one mutex, held while the sink and the IrqLine are called.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>

#include "device/byte_device.h"
#include "device/byte_sink.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

struct SerialState {
  static constexpr unsigned kFifoBytes = 16;
  std::array<uint8_t, kFifoBytes> rx{};  // oldest first
  uint8_t rx_count = 0;
  uint8_t interrupt_enable = 0;
  uint8_t fifo_control = 0;
  uint8_t line_control = 0;
  uint8_t modem_control = 0;
  uint8_t line_errors = 0;  // the sticky bits of LSR
  uint8_t modem_status = 0xb0;
  uint8_t scratch = 0;
  uint16_t divisor = 12;
  bool thre_pending = false;
  bool operator==(const SerialState&) const = default;
};

// Told when the guest has emptied the receiver, after receive() took less than it was given.
class RoomListener {
 public:
  virtual ~RoomListener() = default;
  // On a vCPU thread, with no lock held; may call receive().
  virtual void room_available() = 0;
};

class Serial final : public ByteDevice {
 public:
  static constexpr uint32_t kPorts = 8;

  // `sink` must outlive this.
  Serial(IrqLine irq, ByteSink& sink) : irq_(irq), sink_(sink) {}

  // Gives bytes to the guest; returns how many fitted. Any thread.
  size_t receive(std::span<const uint8_t> bytes);
  // At most one, before the vCPUs run; nullptr for none.
  void set_room_listener(RoomListener* listener) { room_listener_ = listener; }

  SerialState save() const;
  void restore(const SerialState& state);

 protected:
  uint8_t read_byte(uint64_t offset) override;
  void write_byte(uint64_t offset, uint8_t value) override;

 private:
  bool has_fifo() const;
  bool is_divisor_latched() const;
  bool is_loopback() const;
  unsigned capacity() const;
  unsigned trigger_level() const;
  uint8_t read_register(uint64_t offset);
  uint8_t interrupt_id() const;
  uint8_t line_status() const;
  uint8_t modem_inputs() const;
  uint8_t pop_received();
  void transmit(uint8_t value);
  void write_interrupt_enable(uint8_t value);
  void write_fifo_control(uint8_t value);
  void write_modem_control(uint8_t value);
  void update_irq();

  const IrqLine irq_;
  ByteSink& sink_;
  RoomListener* room_listener_ = nullptr;
  mutable std::mutex mutex_;
  SerialState state_;             // guarded by mutex_
  bool irq_level_ = false;        // guarded by mutex_
  bool receive_refused_ = false;  // guarded by mutex_
};

}  // namespace trapeze
