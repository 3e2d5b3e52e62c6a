// Stream: one direction of one byte stream, from a descriptor to another, in order, through one
// buffer. Both descriptors are non-blocking; who polls asks wants_read() and wants_write().
#pragma once

#include <cstddef>
#include <cstdint>

namespace trapeze::guest {

class Stream {
 public:
  static constexpr size_t kBufferBytes = 64 * 1024;

  // `buffer` has kBufferBytes and lives as long as the stream.
  void connect(int from, int to, char* buffer) {
    from_ = from;
    to_ = to;
    buffer_ = buffer;
  }
  bool wants_read() const { return from_ >= 0 && !ended_ && begin_ == end_ && total_ < limit_; }
  bool wants_write() const { return begin_ != end_; }
  // Moves bytes until neither side goes on.
  void pump();
  // The source is at its end (or broken) and everything read from it was written.
  bool is_done() const { return (ended_ || total_ == limit_) && begin_ == end_; }
  uint64_t total_bytes() const { return total_; }
  // The source counts as ended after that many bytes.
  void end_after(uint64_t total_bytes) { limit_ = total_bytes; }
  // The source counts as ended as soon as it has nothing to read.
  void end_when_empty() { ends_when_empty_ = true; }
  // Reads no more; what was read and not yet written is dropped.
  void close_source() {
    from_ = -1;
    ended_ = true;
    begin_ = end_ = 0;
  }
  // Whoever read from `to` is gone: from now on bytes are taken and dropped.
  void drop_output() {
    sink_ = Sink::Gone;
    begin_ = end_ = 0;
  }

 private:
  bool fill();   // true when bytes came
  bool drain();  // true when the buffer is empty again

  enum class Sink : uint8_t { Open, Gone };

  int from_ = -1;
  int to_ = -1;
  size_t begin_ = 0;
  size_t end_ = 0;
  uint64_t total_ = 0;  // read so far
  uint64_t limit_ = ~uint64_t{0};
  bool ended_ = false;
  bool ends_when_empty_ = false;
  Sink sink_ = Sink::Open;
  char* buffer_ = nullptr;
};

}  // namespace trapeze::guest
