// What a network card counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct NetMetrics {
  Counter sent_frames;
  Counter sent_bytes;  // with headers
  Counter received_frames;
  Counter received_bytes;
  Counter bad_frames;         // the guest's fault; dropped
  Counter dropped_sending;    // the back end would not have them, or there is none any more
  Counter dropped_receiving;  // the guest's buffers are too small
  Counter control_commands;
  Counter throttled;  // times that a rate limiter made a queue wait
};

}  // namespace trapeze
