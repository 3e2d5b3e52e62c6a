// I8042: the keyboard controller, as far as guests use it to reset the machine and probe it: ports
// 0x60 (data) and 0x64 (command, status). No keyboard and no mouse are attached; no interrupts.
// Any thread; one mutex, not held while PowerEvents is called.
#pragma once

#include <cstdint>
#include <mutex>

#include "bus/io_device.h"
#include "device/byte_device.h"
#include "device/power_events.h"

namespace trapeze {

struct I8042State {
  uint8_t control = 0x30;  // both ports disabled (bits 4, 5)
  uint8_t output = 0;
  uint8_t output_flags = 0;  // status bits that belong to `output`
  uint8_t command = 0;       // waits for its data byte; 0: none
  uint8_t output_port = 0x03;
  bool operator==(const I8042State&) const = default;
};

class I8042 {
 public:
  explicit I8042(PowerEvents& power) : power_(power) {}

  IoDevice& data_port() { return data_port_; }        // 0x60
  IoDevice& command_port() { return command_port_; }  // 0x64

  I8042State save() const;
  void restore(const I8042State& state);

 private:
  struct DataPort final : ByteDevice {
    explicit DataPort(I8042& controller) : owner(controller) {}
    uint8_t read_byte(uint64_t) override { return owner.read_data(); }
    void write_byte(uint64_t, uint8_t value) override { owner.write_data(value); }
    I8042& owner;
  };
  struct CommandPort final : ByteDevice {
    explicit CommandPort(I8042& controller) : owner(controller) {}
    uint8_t read_byte(uint64_t) override { return owner.read_status(); }
    void write_byte(uint64_t, uint8_t value) override { owner.write_command(value); }
    I8042& owner;
  };

  uint8_t read_data();
  uint8_t read_status();
  void write_data(uint8_t value);
  void write_command(uint8_t value);
  void answer(uint8_t value, uint8_t flags = 0);

  PowerEvents& power_;
  DataPort data_port_{*this};
  CommandPort command_port_{*this};
  mutable std::mutex mutex_;
  I8042State state_;  // guarded by mutex_
};

}  // namespace trapeze
