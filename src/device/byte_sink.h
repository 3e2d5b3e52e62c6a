// ByteSink: where a character device sends what the guest writes. Called on vCPU threads with the
// device's lock held, so bytes stay in order: it must not call the device, and should not wait.
#pragma once

#include <cstdint>
#include <span>

namespace trapeze {

class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual void write(std::span<const uint8_t> bytes) = 0;
};

}  // namespace trapeze
