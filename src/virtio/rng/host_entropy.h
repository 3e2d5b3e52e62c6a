// HostEntropy: the kernel's random number generator (getrandom).
#pragma once

#include "virtio/rng/entropy_source.h"

namespace trapeze {

class HostEntropy final : public EntropySource {
 public:
  size_t fill(std::span<std::byte> to) override;
};

}  // namespace trapeze
