// Chain: the buffers of one request that a driver put into a virtqueue, as host memory. Filled by
// VirtQueue::pop and given back by VirtQueue::push_used; its storage is reused from pop to pop.
// Owned and used by the device's thread.
//
// The pointers are into guest RAM: valid as long as the VM, inside RAM whatever the guest does, but
// the bytes change under the reader's hands. Copy once, check the copy, use the copy (iov.h).
// Buffers of a chain may overlap, so a chain can be longer than the guest's RAM.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

namespace trapeze {

class Chain {
 public:
  // Bytes for the device to read come first, those for the device to write last (virtio 1.2
  // §2.7.4.2). No part is empty.
  std::span<const iovec> readable() const { return readable_; }
  std::span<const iovec> writable() const { return writable_; }
  uint64_t readable_bytes() const { return readable_bytes_; }
  uint64_t writable_bytes() const { return writable_bytes_; }
  uint16_t head() const { return head_; }

  // For devices that write through writable() themselves (readv): the first `bytes` of the writable
  // part may have changed, even if fewer are reported as used. push_used tells guest memory.
  void note_written(uint64_t bytes) {
    if (bytes > written_bytes_) written_bytes_ = bytes;
  }

 private:
  friend class VirtQueue;
  friend class ChainWalk;
  void clear() {
    readable_.clear();
    writable_.clear();
    readable_bytes_ = writable_bytes_ = written_bytes_ = 0;
  }

  std::vector<iovec> readable_;
  std::vector<iovec> writable_;
  uint64_t readable_bytes_ = 0;
  uint64_t writable_bytes_ = 0;
  uint64_t written_bytes_ = 0;
  uint16_t head_ = 0;
};

}  // namespace trapeze
