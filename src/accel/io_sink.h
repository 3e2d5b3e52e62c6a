// IoSink: where an accelerator sends the port and MMIO accesses that it does not handle itself.
// Implemented by bus/. All calls come on the accessing vCPU's own thread, several at a time.
// `width` is 1, 2, 4 or 8 for memory (accesses that cross 8 bytes are split), 1, 2 or 4 for ports.
// Reads of nothing return all ones; writes to nothing are dropped.
#pragma once

#include <cstdint>

#include "base/strong.h"
#include "memory/guest_addr.h"

namespace trapeze {

class IoSink {
 public:
  virtual ~IoSink() = default;
  virtual uint64_t mmio_read(Gpa gpa, Width width) = 0;
  virtual void mmio_write(Gpa gpa, Width width, uint64_t value) = 0;
  virtual uint32_t pio_read(Port port, Width width) = 0;
  virtual void pio_write(Port port, Width width, uint32_t value) = 0;
};

}  // namespace trapeze
