// What a disk counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct BlockMetrics {
  Counter reads;
  Counter read_bytes;
  Counter writes;
  Counter write_bytes;
  Counter flushes;
  Counter discards;      // and write-zeroes
  Counter bad_requests;  // the guest's fault
  Counter host_errors;
  Counter throttled;  // times that the rate limiter made a queue wait
};

}  // namespace trapeze
