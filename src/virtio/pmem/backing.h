// What stands behind a virtio-pmem: something whose bytes the guest has mapped. A back end
// implements it; this header is all that it knows of the device. Called on the device's thread.
#pragma once

namespace trapeze {

class PmemBacking {
 public:
  virtual ~PmemBacking() = default;
  // What the guest has written so far is on stable storage when this returns true. May take long.
  virtual bool flush() = 0;
};

}  // namespace trapeze
