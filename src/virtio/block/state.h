// What a snapshot keeps of a virtio-blk, besides its queues.
#pragma once

#include "virtio/rate_limiter.h"

namespace trapeze {

struct BlockState {
  bool is_writeback = true;  // what the driver wrote into the configuration
  TokenBucketState bandwidth;
  TokenBucketState operations;
  bool operator==(const BlockState&) const = default;
};

}  // namespace trapeze
