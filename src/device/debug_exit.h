// DebugExit: test images end the machine with a status by a write to this port (0xf4, 4 ports).
// Any thread; no state.
#pragma once

#include <cstdint>

#include "bus/io_device.h"
#include "device/power_events.h"

namespace trapeze {

class DebugExit final : public IoDevice {
 public:
  static constexpr uint32_t kPorts = 4;

  explicit DebugExit(DebugExitEvents& events) : events_(events) {}
  uint64_t read(uint64_t, Width) override { return 0; }
  void write(uint64_t, Width width, uint64_t value) override {
    events_.debug_exit(static_cast<uint32_t>((value & all_ones(width)) << 1) | 1U);
  }

 private:
  DebugExitEvents& events_;
};

}  // namespace trapeze
