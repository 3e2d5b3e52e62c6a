// LastBytes: what a guest has sent on connections that are gone, where the host's side takes it
// slowly. Keeps each such stream until its bytes are through, then closes it. Private to
// virtio/vsock; the device's thread.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>

#include "virtio/vsock/host.h"
#include "virtio/vsock/waiting_bytes.h"

namespace trapeze {

class LastBytes {
 public:
  void add(std::unique_ptr<VsockStream> stream, WaitingBytes bytes);
  size_t streams() const { return deliveries_.size(); }
  size_t bytes() const;
  // Called once: when nothing is left, at once if that is so already.
  void when_done(std::function<void()> on_done);

 private:
  struct Delivery final : VsockStreamListener {
    void stream_ready() override { owner->go_on(at); }
    LastBytes* owner = nullptr;
    std::list<Delivery>::iterator at;
    std::unique_ptr<VsockStream> stream;
    WaitingBytes bytes;
  };

  void go_on(std::list<Delivery>::iterator at);

  std::list<Delivery> deliveries_;
  std::function<void()> on_done_;
};

}  // namespace trapeze
