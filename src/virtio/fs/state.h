// What a snapshot keeps of a virtio-fs, besides its queues: nothing of the device, as every request
// is answered before the next is taken. What its server keeps is in backend/fs/session_state.h.
#pragma once

namespace trapeze {

struct FsDeviceState {
  bool operator==(const FsDeviceState&) const = default;
};

}  // namespace trapeze
