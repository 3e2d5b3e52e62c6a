// BoardBus: the accelerator's IoSink over one port bus and one memory bus. Threads: as AddressBus.
#pragma once

#include "accel/io_sink.h"
#include "bus/address_bus.h"

namespace trapeze {

class BoardBus final : public IoSink {
 public:
  PortBus& ports() { return ports_; }
  MemoryBus& memory() { return memory_; }

  uint64_t mmio_read(Gpa gpa, Width width) override { return memory_.read(gpa.raw(), width); }
  void mmio_write(Gpa gpa, Width width, uint64_t value) override {
    memory_.write(gpa.raw(), width, value);
  }
  uint32_t pio_read(Port port, Width width) override {
    return static_cast<uint32_t>(ports_.read(port.raw(), width));
  }
  void pio_write(Port port, Width width, uint32_t value) override {
    ports_.write(port.raw(), width, value);
  }

 private:
  PortBus ports_;
  MemoryBus memory_;
};

}  // namespace trapeze
