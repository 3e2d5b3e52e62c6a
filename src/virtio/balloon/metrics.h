// What a virtio-balloon counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct BalloonMetrics {
  Counter inflated_pages;
  Counter deflated_pages;
  Counter reported_bytes;  // free in the guest, without the balloon
  Counter returned_bytes;  // of both kinds: given back to the host
  Counter bad_pages;       // the guest's fault: not RAM
};

}  // namespace trapeze
