// ByteDevice: for devices with 8-bit registers. A wider access is one access to each successive
// register, as the ISA bus does it.
#pragma once

#include <cstdint>

#include "bus/io_device.h"

namespace trapeze {

class ByteDevice : public IoDevice {
 public:
  uint64_t read(uint64_t offset, Width width) final {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes_of(width); ++i) {
      value |= uint64_t{read_byte(offset + i)} << (8 * i);
    }
    return value;
  }
  void write(uint64_t offset, Width width, uint64_t value) final {
    for (unsigned i = 0; i < bytes_of(width); ++i) {
      write_byte(offset + i, static_cast<uint8_t>(value >> (8 * i)));
    }
  }

 protected:
  virtual uint8_t read_byte(uint64_t offset) = 0;
  virtual void write_byte(uint64_t offset, uint8_t value) = 0;
};

}  // namespace trapeze
