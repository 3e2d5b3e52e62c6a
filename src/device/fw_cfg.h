// FwCfg: the few items of QEMU's firmware configuration device that CPU test images read: selector
// at port 0x510 (16-bit write), data at 0x511 (byte reads). No files, no DMA.
// Any thread; one mutex.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "bus/io_device.h"

namespace trapeze {

struct FwCfgConfig {
  uint64_t ram_size_bytes = 0;
  uint32_t vcpus = 1;
};

struct FwCfgState {
  uint16_t selected = 0;
  uint32_t offset = 0;
  bool operator==(const FwCfgState&) const = default;
};

class FwCfg final : public IoDevice {
 public:
  static constexpr uint32_t kPorts = 2;

  explicit FwCfg(const FwCfgConfig& config) : config_(config) {}
  uint64_t read(uint64_t offset, Width width) override;
  void write(uint64_t offset, Width width, uint64_t value) override;

  FwCfgState save() const;
  void restore(const FwCfgState& state);

 private:
  uint64_t item(uint16_t key) const;
  uint8_t next_byte();

  const FwCfgConfig config_;
  mutable std::mutex mutex_;
  FwCfgState state_;  // guarded by mutex_
};

}  // namespace trapeze
