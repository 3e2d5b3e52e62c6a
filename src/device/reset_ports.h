// Legacy one-byte ports: two ways to reset a PC (0x92 and 0xcf9) and ports that only remember what
// was written (0x80, the POST code, which also serves as a delay; 0xed). Any thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "device/byte_device.h"
#include "device/power_events.h"

namespace trapeze {

struct PortLatchState {
  uint8_t value = 0;
  bool operator==(const PortLatchState&) const = default;
};

// Port 0x92, "System Control Port A": bit 0 rising resets, bit 1 is the A20 gate, which is stored
// but never closed.
class SystemControlA final : public ByteDevice {
 public:
  explicit SystemControlA(PowerEvents& power) : power_(power) {}
  PortLatchState save() const { return {value_.load(std::memory_order_relaxed)}; }
  void restore(const PortLatchState& state) {
    value_.store(state.value, std::memory_order_relaxed);
  }

 protected:
  uint8_t read_byte(uint64_t offset) override;
  void write_byte(uint64_t offset, uint8_t value) override;

 private:
  static constexpr uint8_t kReset = 1U << 0;
  static constexpr uint8_t kA20 = 1U << 1;
  PowerEvents& power_;
  std::atomic<uint8_t> value_{kA20};
};

// Port 0xcf9, "Reset Control": bit 2 rising resets. For PciRootConfig::reset_port.
class ResetControl final : public ByteDevice {
 public:
  explicit ResetControl(PowerEvents& power) : power_(power) {}
  PortLatchState save() const { return {value_.load(std::memory_order_relaxed)}; }
  void restore(const PortLatchState& state) {
    value_.store(state.value, std::memory_order_relaxed);
  }

 protected:
  uint8_t read_byte(uint64_t offset) override;
  void write_byte(uint64_t offset, uint8_t value) override;

 private:
  static constexpr uint8_t kSystemReset = 1U << 1;
  static constexpr uint8_t kResetCpu = 1U << 2;
  static constexpr uint8_t kFullReset = 1U << 3;
  PowerEvents& power_;
  std::atomic<uint8_t> value_{0};
};

// Remembers one byte.
class PortLatch final : public ByteDevice {
 public:
  PortLatchState save() const { return {value_.load(std::memory_order_relaxed)}; }
  void restore(const PortLatchState& state) {
    value_.store(state.value, std::memory_order_relaxed);
  }

 protected:
  uint8_t read_byte(uint64_t) override { return value_.load(std::memory_order_relaxed); }
  void write_byte(uint64_t, uint8_t value) override {
    value_.store(value, std::memory_order_relaxed);
  }

 private:
  std::atomic<uint8_t> value_{0};
};

}  // namespace trapeze
