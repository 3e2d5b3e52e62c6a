// What virtio-rng counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct RngMetrics {
  Counter bytes;
  Counter requests;
  Counter source_failures;  // the source gave nothing
};

}  // namespace trapeze
