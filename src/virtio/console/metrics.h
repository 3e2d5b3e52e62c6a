// What one port counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct ConsolePortMetrics {
  Counter guest_to_host_bytes;
  Counter host_to_guest_bytes;
  Counter guest_to_host_stalls;  // the host's end said "not now"
  Counter host_to_guest_stalls;  // the guest had no buffers
};

}  // namespace trapeze
