// TransportReset: the event that tells the driver that all connections are gone, and that its CID
// may be another one (virtio 1.2 §5.10.6.7): after a restore.
#pragma once

#include "virtio/device.h"
#include "virtio/vsock/protocol.h"

namespace trapeze {

class TransportReset {
 public:
  // The driver is to be told.
  void order() { is_ordered_ = true; }
  // With the first buffer that it gives for events. When the device becomes active, and when the
  // event queue is kicked.
  void tell(ActiveState& active);

 private:
  bool is_ordered_ = false;
  Chain chain_;
};

}  // namespace trapeze
