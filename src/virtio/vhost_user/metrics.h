// What a vhost-user device counts.
#pragma once

#include "virtio/metrics.h"

namespace trapeze {

struct VhostUserMetrics {
  Counter requests;      // chains given to the back end
  Counter replies;       // and back
  Counter bad_requests;  // the guest's fault
  Counter failed;        // answered with an error, or dropped, because the back end was not there
  Counter connections;   // times that it was there again
};

}  // namespace trapeze
