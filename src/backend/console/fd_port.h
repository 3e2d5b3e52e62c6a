// FdPort: a console port on file descriptors: stdin and stdout, a file, a pipe, a socket.
// Threads: as virtio/console/port.h says.
#pragma once

#include <memory>
#include <optional>

#include "backend/console/input_pump.h"
#include "backend/console/stream_fd.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/console/port.h"

namespace trapeze {

struct FdPortConfig {
  std::optional<StreamFd> input;   // host to guest; none: the guest never gets anything
  std::optional<StreamFd> output;  // guest to host; none: what the guest writes is dropped
  // At the end of the input the guest sees a closed host, and reads end of file. It cannot write
  // then, either; so this is for ports with one direction.
  bool close_at_end_of_input = false;
};

class FdPort final : public ConsolePort {
 public:
  // `loop` is the device's, and must outlive the port.
  static Result<std::unique_ptr<FdPort>> create(EventLoop& loop, FdPortConfig config);
  ~FdPort() override;
  FdPort(const FdPort&) = delete;
  FdPort& operator=(const FdPort&) = delete;

  void attach(ConsoleGuest* guest) override;
  size_t receive(std::span<const std::byte> bytes) override;
  void on_guest_ready() override;
  void on_guest_open(bool /*open*/) override {}

  // For a terminal's size.
  void resize(uint16_t columns, uint16_t rows) {
    if (guest_ != nullptr) guest_->resize(columns, rows);
  }

 private:
  FdPort(EventLoop& loop, std::optional<StreamFd> output)
      : loop_(loop), output_(std::move(output)) {}
  void on_writable();

  EventLoop& loop_;
  ConsoleGuest* guest_ = nullptr;
  std::optional<StreamFd> output_;  // empty also once nobody reads it any more
  std::unique_ptr<InputPump> input_;
};

}  // namespace trapeze
