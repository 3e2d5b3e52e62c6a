// What a snapshot keeps of a virtio-vsock, besides its queues. Connections end with it: the guest
// is told so by an event when it goes on (virtio 1.2 §5.10.6.7).
#pragma once

#include <cstdint>

namespace trapeze {

struct VsockState {
  uint64_t guest_cid = 0;
  bool operator==(const VsockState&) const = default;
};

}  // namespace trapeze
