// InputPump: reads a file descriptor on an EventLoop and hands the bytes to whoever wants them, at
// the speed at which they are taken. For stdin, pipes, files, sockets.
//
// Threads: resume() from any thread, the rest on the loop's thread (or while nothing runs it). The
// sink and the end callback are called there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/console/stream_fd.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace trapeze {

class InputPump {
 public:
  // Returns how many bytes were taken; fewer than all means "not now", until resume().
  using Sink = std::function<size_t(std::span<const std::byte>)>;
  // End of file, or an error of the fd. All bytes before it were taken.
  using EndHandler = std::function<void()>;

  // `loop` must outlive the pump.
  static Result<std::unique_ptr<InputPump>> create(EventLoop& loop, StreamFd input, Sink sink,
                                                   EndHandler on_end = {});
  ~InputPump();
  InputPump(const InputPump&) = delete;
  InputPump& operator=(const InputPump&) = delete;

  // The sink takes bytes again. May be spurious. Not from inside the sink.
  void resume();
  bool is_at_end() const { return is_at_end_; }

 private:
  static constexpr size_t kBufferBytes = 64 * 1024;

  InputPump(EventLoop& loop, StreamFd input, Sink sink, EndHandler on_end);
  void on_readable();
  void deliver();
  void finish();

  EventLoop& loop_;
  StreamFd input_;
  const Sink sink_;
  const EndHandler on_end_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBufferBytes);
  size_t start_ = 0;  // [start_, end_) of the buffer is not taken yet
  size_t end_ = 0;
  bool is_at_end_ = false;
  // Tasks that resume() has posted may come after the pump is gone.
  std::shared_ptr<InputPump*> self_;
};

}  // namespace trapeze
