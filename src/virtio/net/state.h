// What a snapshot keeps of a virtio-net, besides its queues.
#pragma once

#include "virtio/net/protocol.h"
#include "virtio/rate_limiter.h"

namespace trapeze {

struct NetState {
  net::MacAddress mac{};
  uint16_t pairs_in_use = 1;
  uint64_t guest_offloads = 0;
  TokenBucketState send_bandwidth;
  TokenBucketState send_operations;
  TokenBucketState receive_bandwidth;
  TokenBucketState receive_operations;
  bool operator==(const NetState&) const = default;
};

}  // namespace trapeze
