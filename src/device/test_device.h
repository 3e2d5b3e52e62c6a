// TestDevice: what CPU test images (kvm-unit-tests) expect of QEMU's pc-testdev: a 32-bit latch at
// ports 0xe0 and 0xe8, "flush page" at 0xe4 (nothing to do here), port 0x2000+n for the level of
// GSI n, 64 KiB of memory-like MMIO, and Bochs' shutdown port 0x8900. Off by default.
// Any thread; one mutex for latch and shutdown, MMIO bytes under it too.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "arch/x86/layout.h"
#include "base/result.h"
#include "bus/board_bus.h"
#include "device/byte_device.h"
#include "device/power_events.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

struct TestDeviceState {
  std::array<uint8_t, 4> latch{};
  uint8_t shutdown_matched = 0;  // how much of "Shutdown" has been written
  std::vector<uint8_t> memory;
  bool operator==(const TestDeviceState&) const = default;
};

class TestDevice {
 public:
  // Both must outlive this.
  TestDevice(InterruptSink& interrupts, PowerEvents& power);

  // Takes all its ports and its MMIO range.
  Result<void> attach_to(BoardBus& bus);

  TestDeviceState save() const;
  Result<void> restore(const TestDeviceState& state);

 private:
  struct Latch final : ByteDevice {
    uint8_t read_byte(uint64_t offset) override;
    void write_byte(uint64_t offset, uint8_t value) override;
    TestDevice* owner = nullptr;
  };
  struct FlushPage final : IoDevice {
    uint64_t read(uint64_t, Width width) override { return all_ones(width); }
    void write(uint64_t, Width, uint64_t) override {}
  };
  struct IrqLevels final : IoDevice {
    uint64_t read(uint64_t, Width width) override { return all_ones(width); }
    void write(uint64_t offset, Width width, uint64_t value) override;
    TestDevice* owner = nullptr;
  };
  struct Memory final : ByteDevice {
    uint8_t read_byte(uint64_t offset) override;
    void write_byte(uint64_t offset, uint8_t value) override;
    TestDevice* owner = nullptr;
  };
  struct ShutdownPort final : ByteDevice {
    uint8_t read_byte(uint64_t) override { return 0xff; }
    void write_byte(uint64_t offset, uint8_t value) override;
    TestDevice* owner = nullptr;
  };

  InterruptSink& interrupts_;
  PowerEvents& power_;
  Latch latch_;
  FlushPage flush_page_;
  IrqLevels irq_levels_;
  Memory memory_;
  ShutdownPort shutdown_port_;
  mutable std::mutex mutex_;
  TestDeviceState state_;  // guarded by mutex_
};

}  // namespace trapeze
