// What a virtio-pmem counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct PmemMetrics {
  Counter flushes;         // of the back end
  Counter flush_requests;  // of the guest; several that wait are served by one flush
  Counter flush_failures;
  Counter bad_requests;  // the guest's fault
};

}  // namespace trapeze
