// SerialTail: remembers the last of the guest's serial output, for the message after a crash, and
// passes all of it on. write() comes from vCPU threads (device/byte_sink.h), tail() from any.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "device/byte_sink.h"

namespace trapeze {

class SerialTail final : public ByteSink {
 public:
  // `next` may be null; it outlives this.
  explicit SerialTail(ByteSink* next) : next_sink_(next) {}

  void write(std::span<const uint8_t> bytes) override;
  // The last lines, safe for a terminal: control characters are left out.
  std::string tail(size_t max_lines) const;

 private:
  static constexpr size_t kKeptBytes = 16 * 1024;

  ByteSink* const next_sink_;
  mutable std::mutex mutex_;
  std::vector<uint8_t> kept_;  // guarded by mutex_
  size_t next_ = 0;            // where the next byte goes once kept_ is full; guarded by mutex_
};

}  // namespace trapeze
