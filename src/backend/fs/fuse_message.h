// Reading FUSE requests and writing replies (protocol 7.31 and later, <linux/fuse.h>). Nothing here
// knows a file.
//
// The request's bytes are copied once out of guest memory, but for the data of a write, and checked
// in the copy.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace trapeze {

uint64_t total_bytes(std::span<const iovec> parts);
// Copies as much as is there from `offset` on; returns how much.
size_t copy_out(std::span<const iovec> from, uint64_t offset, std::span<std::byte> to);
size_t copy_in(std::span<const iovec> to, uint64_t offset, std::span<const std::byte> from);
// [offset, offset + bytes) of `parts`, as far as it is there.
void slice(std::span<const iovec> parts, uint64_t offset, uint64_t bytes, std::vector<iovec>& to);

// A cursor over the bytes of a request behind its header.
class FuseArguments {
 public:
  explicit FuseArguments(std::span<const std::byte> bytes) : left_(bytes) {}
  // A whole T, or nothing.
  template <typename T>
  requires std::is_trivially_copyable_v<T> std::optional<T> take() {
    if (left_.size() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, left_.data(), sizeof(T));
    left_ = left_.subspan(sizeof(T));
    return value;
  }
  // A string that a zero ends.
  std::optional<std::string> take_name();
  std::optional<std::span<const std::byte>> take_bytes(size_t bytes);
  bool is_empty() const { return left_.empty(); }

 private:
  std::span<const std::byte> left_;
};

// The reply's bytes behind its header; its storage is used again.
class FusePayload {
 public:
  void clear() { bytes_.clear(); }
  std::span<const std::byte> bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void put(const T& value) { put_bytes(std::as_bytes(std::span<const T, 1>(&value, 1))); }
  void put_bytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void put_text(const std::string& text) { put_bytes(std::as_bytes(std::span(text))); }
  void pad_to_record() { bytes_.resize(FUSE_REC_ALIGN(bytes_.size())); }
  // For system calls that fill it.
  std::span<std::byte> grow(size_t bytes) {
    bytes_.resize(bytes_.size() + bytes);
    return std::span(bytes_).last(bytes);
  }
  void shrink_to(size_t bytes) { bytes_.resize(bytes); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace trapeze
