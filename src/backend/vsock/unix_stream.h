// UnixStream: one connection of a guest, as a connected unix socket.
// Threads: as virtio/vsock/host.h says.
#pragma once

#include "base/event_loop.h"
#include "base/fd.h"
#include "virtio/vsock/host.h"

namespace trapeze {

class UnixStream final : public VsockStream {
 public:
  // `socket` does not block; `loop` must outlive the stream.
  UnixStream(Fd socket, EventLoop& loop);
  ~UnixStream() override;
  UnixStream(const UnixStream&) = delete;
  UnixStream& operator=(const UnixStream&) = delete;

  void attach(VsockStreamListener* listener) override { listener_ = listener; }
  Outcome read(std::span<const iovec> to) override;
  Outcome write(std::span<const iovec> from) override;
  void want(bool reading, bool writing) override;
  void end_writing() override;
  void accepted(uint32_t host_port) override;

 private:
  Fd socket_;
  EventLoop& loop_;
  VsockStreamListener* listener_ = nullptr;
  bool is_watched_ = false;
};

}  // namespace trapeze
