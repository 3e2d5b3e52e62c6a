// What a snapshot keeps of a virtio-balloon, besides its queues.
#pragma once

#include <cstdint>

namespace trapeze {

struct BalloonState {
  uint32_t target_pages = 0;
  uint32_t actual_pages = 0;
  uint32_t poison_value = 0;
  bool operator==(const BalloonState&) const = default;
};

}  // namespace trapeze
