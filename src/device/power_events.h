// What the guest asks of the machine as a whole. Called on the vCPU thread that made the access,
// with no lock held; may come more than once and from several vCPUs. Must not wait for that vCPU.
#pragma once

#include <cstdint>

namespace trapeze {

class PowerEvents {
 public:
  virtual ~PowerEvents() = default;
  virtual void power_off() = 0;
  virtual void reset() = 0;
};

// The debug-exit port of test images.
class DebugExitEvents {
 public:
  virtual ~DebugExitEvents() = default;
  // `status` is (value << 1) | 1, as QEMU's isa-debug-exit has it; 32 bits of it.
  virtual void debug_exit(uint32_t status) = 0;
};

}  // namespace trapeze
