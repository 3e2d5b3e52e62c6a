// ChainReader and ChainWriter: cursors over the two parts of a chain. They never go past its end,
// whatever the caller asks for; the caller looks at what it got. Device thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "virtio/queue/chain.h"

namespace trapeze {

// Position in a list of iovecs.
class IovCursor {
 public:
  explicit IovCursor(std::span<const iovec> parts) : parts_(parts) {
    for (const iovec& part : parts) left_ += part.iov_len;
  }
  uint64_t remaining() const { return left_; }
  uint64_t position() const { return done_; }
  // The contiguous bytes at the cursor; empty at the end.
  std::span<std::byte> contiguous() const {
    if (left_ == 0) return {};
    const iovec& part = parts_[index_];
    return {static_cast<std::byte*>(part.iov_base) + offset_, part.iov_len - offset_};
  }
  // At most to the end.
  void advance(uint64_t bytes) {
    bytes = std::min(bytes, left_);
    left_ -= bytes;
    done_ += bytes;
    while (bytes > 0) {
      const uint64_t step = std::min<uint64_t>(bytes, parts_[index_].iov_len - offset_);
      offset_ += step;
      bytes -= step;
      if (offset_ == parts_[index_].iov_len) {
        ++index_;
        offset_ = 0;
      }
    }
  }

 private:
  std::span<const iovec> parts_;
  size_t index_ = 0;
  size_t offset_ = 0;
  uint64_t left_ = 0;
  uint64_t done_ = 0;
};

class ChainReader {
 public:
  // `chain` must outlive the reader and not be popped into meanwhile.
  explicit ChainReader(const Chain& chain) : cursor_(chain.readable()) {}
  uint64_t remaining() const { return cursor_.remaining(); }
  uint64_t position() const { return cursor_.position(); }
  void skip(uint64_t bytes) { cursor_.advance(bytes); }
  // Without a copy: the guest may change these bytes at any time. skip() what was taken.
  std::span<const std::byte> contiguous() const { return cursor_.contiguous(); }

  // Copies as much as is there; returns how much.
  size_t read(std::span<std::byte> to) {
    size_t done = 0;
    while (done < to.size() && cursor_.remaining() > 0) {
      const auto from = cursor_.contiguous();
      const size_t step = std::min(from.size(), to.size() - done);
      std::memcpy(to.data() + done, from.data(), step);
      cursor_.advance(step);
      done += step;
    }
    // The copy is the only look: the compiler must not go back to guest memory for it.
    asm volatile("" ::: "memory");
    return done;
  }
  // A whole T, or nothing (and the cursor stays).
  template <typename T>
  requires std::is_trivially_copyable_v<T> std::optional<T> read_value() {
    if (remaining() < sizeof(T)) return std::nullopt;
    T value;
    read(std::as_writable_bytes(std::span<T, 1>(&value, 1)));
    return value;
  }

 private:
  IovCursor cursor_;
};

class ChainWriter {
 public:
  explicit ChainWriter(Chain& chain) : chain_(&chain), cursor_(chain.writable()) {}
  uint64_t remaining() const { return cursor_.remaining(); }
  // Bytes written or skipped so far: what push_used wants for a device that writes in order.
  uint64_t position() const { return cursor_.position(); }
  void skip(uint64_t bytes) { cursor_.advance(bytes); }
  // Without a copy: fill a part of it, then commit() that much.
  std::span<std::byte> contiguous() const { return cursor_.contiguous(); }
  void commit(uint64_t bytes) {
    cursor_.advance(bytes);
    chain_->note_written(cursor_.position());
  }

  // Copies as much as fits; returns how much.
  size_t write(std::span<const std::byte> from) {
    size_t done = 0;
    while (done < from.size() && cursor_.remaining() > 0) {
      const auto to = cursor_.contiguous();
      const size_t step = std::min(to.size(), from.size() - done);
      std::memcpy(to.data(), from.data() + done, step);
      cursor_.advance(step);
      done += step;
    }
    chain_->note_written(cursor_.position());
    return done;
  }
  // A whole T, or nothing.
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  bool write_value(const T& value) {
    if (remaining() < sizeof(T)) return false;
    write(std::as_bytes(std::span<const T, 1>(&value, 1)));
    return true;
  }

 private:
  Chain* chain_;
  IovCursor cursor_;
};

}  // namespace trapeze
