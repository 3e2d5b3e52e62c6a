// EntropySource: where virtio-rng takes its bytes. Called on the device's thread.
#pragma once

#include <cstddef>
#include <span>

namespace trapeze {

class EntropySource {
 public:
  virtual ~EntropySource() = default;
  // Fills as much as it can without blocking; returns how much, from the start.
  virtual size_t fill(std::span<std::byte> to) = 0;
};

}  // namespace trapeze
