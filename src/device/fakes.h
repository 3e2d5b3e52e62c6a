// Fakes for the device tests: they remember what they were told.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "device/byte_sink.h"
#include "device/power_events.h"
#include "device/timed_device.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

struct FakeWires final : InterruptSink {
  void set_irq_level(Gsi gsi, bool asserted) override {
    bool& level = levels[gsi.raw()];
    edges += asserted && !level;
    level = asserted;
    ++calls;
  }
  void send_msi(const MsiMessage&) override {}
  std::map<uint32_t, bool> levels;
  unsigned edges = 0;  // rising
  unsigned calls = 0;
};

struct FakePower final : PowerEvents, DebugExitEvents {
  void power_off() override { ++power_offs; }
  void reset() override { ++resets; }
  void debug_exit(uint32_t status) override { statuses.push_back(status); }
  unsigned power_offs = 0;
  unsigned resets = 0;
  std::vector<uint32_t> statuses;
};

struct FakeTimers final : TimerHost {
  void deadline_changed() override { ++changes; }
  unsigned changes = 0;
};

struct FakeSink final : ByteSink {
  void write(std::span<const uint8_t> bytes) override {
    writes.emplace_back(bytes.begin(), bytes.end());
    text += writes.back();
  }
  std::vector<std::string> writes;
  std::string text;
};

}  // namespace trapeze
