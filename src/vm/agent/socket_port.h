// SocketPort: one stream of a further session (agent/protocol.h): joins a port of an AgentSession
// with a socket that leads to the guest, as virtio-console joins those of the first session.
// Loop thread only.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "virtio/console/port.h"

namespace trapeze {

class SocketPort final : public ConsoleGuest {
 public:
  // `loop` and `port` must outlive this. `on_end`: the guest has closed its end and all that it had
  // sent was taken; called once.
  SocketPort(EventLoop& loop, Fd socket, ConsolePort& port, std::function<void()> on_end);
  ~SocketPort() override;
  SocketPort(const SocketPort&) = delete;
  SocketPort& operator=(const SocketPort&) = delete;

  // Connects both ends; nothing moves before.
  Result<void> start();

  // ConsoleGuest.
  size_t send(std::span<const std::byte> bytes) override;
  void output_ready() override;
  void set_host_open(bool /*open*/) override {}
  void resize(uint16_t /*columns*/, uint16_t /*rows*/) override {}

 private:
  static constexpr size_t kBufferBytes = 64 * 1024;

  void on_ready(uint32_t events);
  void deliver();
  void end();
  void update_events();

  EventLoop& loop_;
  const Fd socket_;
  ConsolePort& port_;
  const std::function<void()> on_end_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBufferBytes);
  size_t begin_ = 0;  // [begin_, end_) of the buffer is not taken yet
  size_t end_ = 0;
  bool wants_room_ = false;  // send() took less than all
  bool is_over_ = false;
  // A task that output_ready() has posted may come after the port is gone.
  const std::shared_ptr<SocketPort*> self_ = std::make_shared<SocketPort*>(this);
};

}  // namespace trapeze
