// StreamFd: reads and writes a file descriptor without ever blocking, whatever it is, and without
// making it non-blocking for the other processes that share it (a shell's terminal, a pipeline).
//
// Pipes and terminals are opened once more for that, sockets are asked per call; where neither
// works a blocking fd is polled before each small step. The process ignores SIGPIPE, or a reader
// that goes away ends it. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

class StreamFd {
 public:
  enum class Direction : uint8_t { Read, Write };
  enum class Status : uint8_t {
    Ok,       // `bytes` were moved
    Blocked,  // nothing now: wait for the fd to become ready
    End,      // end of file; for writing: nobody reads any more
    Failed,   // an error, which stays
  };
  struct Outcome {
    Status status = Status::Ok;
    size_t bytes = 0;
  };

  // `fd` stays the caller's, who keeps it open as long as this lives.
  static Result<StreamFd> borrow(int fd, Direction direction);
  static Result<StreamFd> own(Fd fd, Direction direction);

  // What to wait for with epoll or poll.
  int fd() const { return own_.is_open() ? own_.get() : borrowed_; }

  Outcome read(std::span<std::byte> to);
  Outcome write(std::span<const std::byte> from);

 private:
  enum class Mode : uint8_t {
    Direct,  // never blocks: a regular file, or a description of our own with O_NONBLOCK
    Socket,
    Polled,
  };
  StreamFd() = default;
  bool is_ready(short events) const;

  int borrowed_ = -1;
  Fd own_;
  Mode mode_ = Mode::Direct;
};

}  // namespace trapeze
