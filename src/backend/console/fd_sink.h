// FdSink: where a UART's output goes, a file descriptor. A UART has no way to say "wait" to the
// guest, and its output must not be lost: so the writing vCPU waits for a slow reader, until
// stop(). Any thread; one writer at a time (the UART holds its lock).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "backend/console/stream_fd.h"
#include "base/fd.h"
#include "base/result.h"
#include "device/byte_sink.h"

namespace trapeze {

class FdSink final : public ByteSink {
 public:
  static Result<std::unique_ptr<FdSink>> create(StreamFd output);

  void write(std::span<const uint8_t> bytes) override;
  // From now on nothing waits: what cannot be written at once is dropped. Any thread.
  void stop();
  // Called once, by the writer, when nobody reads any more. Set it before anything is written.
  void set_on_lost(std::function<void()> on_lost) { on_lost_ = std::move(on_lost); }

 private:
  FdSink(StreamFd output, Fd stop_event)
      : output_(std::move(output)), stop_event_(std::move(stop_event)) {}
  // False when stop() was called.
  bool wait_writable() const;

  StreamFd output_;
  const Fd stop_event_;  // readable for ever once stopped
  bool is_lost_ = false;
  std::function<void()> on_lost_;
};

}  // namespace trapeze
