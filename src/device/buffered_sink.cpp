#include "device/buffered_sink.h"

namespace trapeze {

void BufferedSink::write(std::span<const uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  const bool was_empty = used_ == 0;
  for (const uint8_t byte : bytes) {
    buffer_[used_++] = byte;
    if (byte == '\n' || used_ == buffer_.size()) flush_locked();
  }
  if (used_ == 0 || !was_empty) return;
  deadline_ns_ = clock_.monotonic_ns() + kDelayNs;
  timers_.deadline_changed();
}

void BufferedSink::flush() {
  const std::lock_guard lock(mutex_);
  flush_locked();
}

void BufferedSink::flush_locked() {
  if (used_ > 0) target_.write(std::span(buffer_).first(used_));
  used_ = 0;
}

std::optional<uint64_t> BufferedSink::next_deadline_ns() const {
  const std::lock_guard lock(mutex_);
  if (used_ == 0) return std::nullopt;
  return deadline_ns_;
}

void BufferedSink::run_timers() {
  const std::lock_guard lock(mutex_);
  if (used_ > 0 && clock_.monotonic_ns() >= deadline_ns_) flush_locked();
}

}  // namespace trapeze
