// WaitingBytes: what the guest has sent on a stream and the host's side has not taken yet. Private
// to virtio/vsock; the device's thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "virtio/vsock/host.h"

namespace trapeze {

class WaitingBytes {
 public:
  size_t size() const { return bytes_.size() - done_; }
  bool is_empty() const { return size() == 0; }
  // Without the first `skipped` bytes of them.
  void append(std::span<const iovec> parts, size_t skipped);
  // Ok: they have all gone. Blocked or Failed: the rest is still here.
  VsockStream::Outcome write_to(VsockStream& stream);
  void clear();

 private:
  std::vector<std::byte> bytes_;
  size_t done_ = 0;  // of them: gone
};

}  // namespace trapeze
