// Scrollback: the last bytes of a stream, in bounded memory. Positions count from the stream's
// beginning, so that each reader goes at its own speed and a slow one skips what is gone.
// Not locked.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace trapeze::manage {

class Scrollback {
 public:
  explicit Scrollback(size_t capacity_bytes) : capacity_(capacity_bytes) {}

  void append(std::span<const std::byte> bytes) {
    end_ += bytes.size();
    // Grows as it fills: most machines say little.
    if (ring_.size() < capacity_) {
      const size_t more = std::min(bytes.size(), capacity_ - ring_.size());
      ring_.insert(ring_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(more));
      bytes = bytes.subspan(more);
    }
    while (!bytes.empty()) {
      const size_t at = (end_ - bytes.size()) % capacity_;
      const size_t part = std::min(bytes.size(), capacity_ - at);
      std::memcpy(ring_.data() + at, bytes.data(), part);
      bytes = bytes.subspan(part);
    }
  }

  uint64_t begin() const { return end_ - ring_.size(); }
  uint64_t end() const { return end_; }

  // Copies what follows `position` and moves it on.
  size_t read(uint64_t& position, std::span<std::byte> to) const {
    position = std::clamp(position, begin(), end_);
    size_t done = 0;
    while (done < to.size() && position != end_) {
      const size_t at = position % capacity_;
      const size_t part = std::min({to.size() - done, static_cast<size_t>(end_ - position),
                                    capacity_ - at, ring_.size() - at});
      std::memcpy(to.data() + done, ring_.data() + at, part);
      done += part;
      position += part;
    }
    return done;
  }

  // Where the oldest whole line begins.
  uint64_t first_line() const {
    const uint64_t oldest = begin();
    if (oldest == 0) return 0;
    for (uint64_t at = oldest; at != end_; ++at) {
      if (ring_[at % capacity_] == std::byte{'\n'}) return at + 1;
    }
    return oldest;
  }

 private:
  const size_t capacity_;
  uint64_t end_ = 0;
  std::vector<std::byte> ring_;
};

}  // namespace trapeze::manage
