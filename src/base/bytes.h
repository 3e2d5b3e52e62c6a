// Little-endian loads and stores on byte spans, for file formats and ABI structures.
// Every access is checked: an offset outside the span is a bug of the caller (CHECK); parsers of
// hostile bytes test the length first and use `fits`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "base/check.h"

namespace trapeze {

// True when [offset, offset+len) lies within `size` bytes, without overflow.
constexpr bool fits(uint64_t size, uint64_t offset, uint64_t len) {
  return offset <= size && len <= size - offset;
}

template <typename T>
requires std::is_trivially_copyable_v<T> T load_le(std::span<const std::byte> bytes,
                                                   uint64_t offset) {
  CHECK(fits(bytes.size(), offset, sizeof(T)));
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <typename T>
requires std::is_trivially_copyable_v<T>
void store_le(std::span<std::byte> bytes, uint64_t offset, T value) {
  CHECK(fits(bytes.size(), offset, sizeof(T)));
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <typename T>
requires std::is_trivially_copyable_v<T> std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

}  // namespace trapeze
