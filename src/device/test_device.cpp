#include "device/test_device.h"

#include <string_view>

namespace trapeze {
namespace {

constexpr std::string_view kShutdownWord = "Shutdown";
constexpr uint16_t kFlushPageOffset = 4;
constexpr uint16_t kSecondLatchOffset = 8;

}  // namespace

TestDevice::TestDevice(InterruptSink& interrupts, PowerEvents& power)
    : interrupts_(interrupts), power_(power) {
  latch_.owner = this;
  irq_levels_.owner = this;
  memory_.owner = this;
  shutdown_port_.owner = this;
  state_.memory.resize(layout::kTestRamMmio.size);
}

Result<void> TestDevice::attach_to(BoardBus& bus) {
  const uint16_t base = layout::kTestDevice.raw();
  PortBus& ports = bus.ports();
  TRY(ports.attach(Port{base}, 4, latch_, "test latch"));
  TRY(ports.attach(Port{static_cast<uint16_t>(base + kFlushPageOffset)}, 4, flush_page_,
                   "test page flush"));
  TRY(ports.attach(Port{static_cast<uint16_t>(base + kSecondLatchOffset)}, 4, latch_,
                   "test byte latch"));
  TRY(ports.attach(layout::kTestIrqBase, layout::kIoApicPins, irq_levels_, "test GSI levels"));
  TRY(ports.attach(layout::kShutdown, 1, shutdown_port_, "test shutdown"));
  return bus.memory().attach(layout::kTestRamMmio, memory_, "test MMIO memory");
}

uint8_t TestDevice::Latch::read_byte(uint64_t offset) {
  const std::lock_guard lock(owner->mutex_);
  return owner->state_.latch[offset % 4];
}

void TestDevice::Latch::write_byte(uint64_t offset, uint8_t value) {
  const std::lock_guard lock(owner->mutex_);
  owner->state_.latch[offset % 4] = value;
}

void TestDevice::IrqLevels::write(uint64_t offset, Width width, uint64_t value) {
  owner->interrupts_.set_irq_level(Gsi{static_cast<uint32_t>(offset)},
                                   (value & all_ones(width)) != 0);
}

uint8_t TestDevice::Memory::read_byte(uint64_t offset) {
  const std::lock_guard lock(owner->mutex_);
  return owner->state_.memory[offset % owner->state_.memory.size()];
}

void TestDevice::Memory::write_byte(uint64_t offset, uint8_t value) {
  const std::lock_guard lock(owner->mutex_);
  owner->state_.memory[offset % owner->state_.memory.size()] = value;
}

void TestDevice::ShutdownPort::write_byte(uint64_t, uint8_t value) {
  bool complete = false;
  {
    const std::lock_guard lock(owner->mutex_);
    uint8_t& matched = owner->state_.shutdown_matched;
    if (value != static_cast<uint8_t>(kShutdownWord[matched])) matched = 0;
    if (value == static_cast<uint8_t>(kShutdownWord[matched])) ++matched;
    complete = matched == kShutdownWord.size();
    if (complete) matched = 0;
  }
  if (complete) owner->power_.power_off();
}

TestDeviceState TestDevice::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Result<void> TestDevice::restore(const TestDeviceState& state) {
  const std::lock_guard lock(mutex_);
  if (state.memory.size() != state_.memory.size() ||
      state.shutdown_matched >= kShutdownWord.size()) {
    return fail("the saved state of the test device is damaged ({} bytes of memory, not {})",
                state.memory.size(), state_.memory.size());
  }
  state_ = state;
  return {};
}

}  // namespace trapeze
