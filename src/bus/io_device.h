// IoDevice: something that answers accesses to a range of ports or of guest physical memory.
//
// Several vCPU threads may call at once: a device that has state locks itself (one std::mutex,
// never held while calling another device). `offset` counts from the start of the range that was
// attached; the access lies within it. `width` is 1, 2, 4 or 8 bytes for memory, 1, 2 or 4 for
// ports, with any alignment. The guest is hostile: every offset and width must get an answer.
#pragma once

#include <cstdint>

#include "base/strong.h"

namespace trapeze {

class IoDevice {
 public:
  virtual ~IoDevice() = default;
  virtual uint64_t read(uint64_t offset, Width width) = 0;  // bits above `width` are ignored
  virtual void write(uint64_t offset, Width width, uint64_t value) = 0;
};

}  // namespace trapeze
