// OutputStream: one output of the command, written to a descriptor of the process as fast as its
// reader takes it; what is not taken waits in the guest. Loop thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "backend/console/stream_fd.h"
#include "base/event_loop.h"

namespace trapeze {

class OutputStream {
 public:
  // `fd` is not owned and must stay open. A closed one drops everything.
  OutputStream(EventLoop& loop, int fd);
  ~OutputStream();
  OutputStream(const OutputStream&) = delete;
  OutputStream& operator=(const OutputStream&) = delete;

  // `on_ready`: go on after write() took less than all. `on_gone`: nobody reads any more (EPIPE),
  // or the disk is full; called once, with the errno; from then on everything is taken and dropped.
  void set_handlers(std::function<void()> on_ready, std::function<void(int os_error)> on_gone);
  // Returns how many bytes were taken.
  size_t write(std::span<const std::byte> bytes);

  // The stream is complete after that many bytes.
  void announce(uint64_t total_bytes) { announced_ = total_bytes; }
  bool is_complete() const { return !stream_ || taken_ == announced_; }

 private:
  void wait_for_room();
  void lose(int os_error);

  EventLoop& loop_;
  std::optional<StreamFd> stream_;  // empty once nobody reads it
  bool watched_ = false;
  uint64_t taken_ = 0;
  uint64_t announced_ = ~uint64_t{0};
  std::function<void()> on_ready_;
  std::function<void(int)> on_gone_;
};

}  // namespace trapeze
