// UnixStream: one connection of a guest, as a connected unix socket.
// Threads: as virtio/vsock/host.h says.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "backend/vsock/quiet_reader.h"
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
  void apply_events();
  void on_events(uint32_t events);
  void follow_reader();
  void start_silence_timer();

  Fd socket_;
  EventLoop& loop_;
  QuietReader reader_;
  VsockStreamListener* listener_ = nullptr;
  uint32_t wanted_events_ = 0;
  bool is_watched_ = false;
  bool is_quiet_ = false;  // as the reader was when the events were applied
  std::optional<EventLoop::TimerId> silence_timer_;
};

}  // namespace trapeze
