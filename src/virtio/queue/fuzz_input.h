// FuzzInput: takes values off a fuzzer's bytes; zeros when they are used up. For fuzzers only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace trapeze {

class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : left_(data, size) {}
  bool is_empty() const { return left_.empty(); }

  template <typename T>
  requires std::is_trivially_copyable_v<T> T take() {
    T value{};
    const auto from = take_bytes(sizeof(T));
    if (!from.empty()) std::memcpy(&value, from.data(), from.size());
    return value;
  }
  uint32_t below(uint32_t limit) { return take<uint16_t>() % limit; }
  // At most what is left.
  std::span<const uint8_t> take_bytes(size_t count) {
    const auto taken = left_.first(std::min(count, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const uint8_t> left_;
};

}  // namespace trapeze
