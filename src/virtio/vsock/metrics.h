// What a virtio-vsock counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct VsockMetrics {
  Counter connections;
  Counter resets;  // told to the guest
  Counter guest_to_host_bytes;
  Counter host_to_guest_bytes;
  Counter bad_packets;  // the guest's fault
};

}  // namespace trapeze
