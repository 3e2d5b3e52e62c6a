#include "virtio/vsock/transport_reset.h"

#include "virtio/queue/iov.h"

namespace trapeze {

void TransportReset::tell(ActiveState& active) {
  VirtQueue* queue = active.queue(vsock::kEventQueue);
  if (!is_ordered_ || queue == nullptr) return;
  while (!queue->pop(chain_)) {
    if (!queue->allow_kicks()) return;
  }
  ChainWriter writer(chain_);
  writer.write_value(vsock::kEventTransportReset);
  queue->push_used(chain_, writer.position());
  is_ordered_ = false;
  active.notify_used(vsock::kEventQueue);
}

}  // namespace trapeze
