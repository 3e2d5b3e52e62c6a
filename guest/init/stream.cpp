#include "init/stream.h"

#include <unistd.h>

#include <cerrno>

namespace trapeze::guest {

void Stream::pump() {
  // One chunk a turn: the other streams and the control port get theirs in between.
  if (begin_ != end_ && !drain()) return;
  if (wants_read() && fill()) drain();
  // Nothing would wake us to find out that it is empty.
  while (ends_when_empty_ && wants_read() && fill()) drain();
}

bool Stream::fill() {
  const uint64_t left = limit_ - total_;
  const size_t wanted = left < kBufferBytes ? static_cast<size_t>(left) : kBufferBytes;
  const ssize_t size = ::read(from_, buffer_, wanted);
  if (size < 0) {
    // A pty's master says EIO once the last slave is closed: that is its end of file.
    if (errno == EINTR || (errno == EAGAIN && !ends_when_empty_)) return false;
    ended_ = true;
    return false;
  }
  if (size == 0) {
    ended_ = true;
    return false;
  }
  total_ += static_cast<uint64_t>(size);
  begin_ = 0;
  end_ = sink_ == Sink::Open ? static_cast<size_t>(size) : 0;
  return true;
}

bool Stream::drain() {
  while (begin_ != end_) {
    const ssize_t size = ::write(to_, buffer_ + begin_, end_ - begin_);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) drop_output();
      return begin_ == end_;
    }
    begin_ += static_cast<size_t>(size);
  }
  return true;
}

}  // namespace trapeze::guest
