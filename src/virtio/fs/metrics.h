// What a shared folder counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct FsMetrics {
  Counter requests;
  Counter errors;  // requests that were answered with an error, "no such file" included
  Counter request_bytes;
  Counter reply_bytes;
  Counter bad_requests;  // without room for their reply: the guest's fault
};

}  // namespace trapeze
