// Byte units. `4 * KiB`, not `4096`.
#pragma once

#include <cstdint>

namespace trapeze {

inline constexpr uint64_t KiB = 1024;
inline constexpr uint64_t MiB = 1024 * KiB;
inline constexpr uint64_t GiB = 1024 * MiB;
inline constexpr uint64_t TiB = 1024 * GiB;

inline constexpr uint64_t kPageSize = 4 * KiB;

constexpr uint64_t align_down(uint64_t value, uint64_t alignment) {
  return value & ~(alignment - 1);
}
// Wraps to 0 when the result does not fit; callers with hostile values check first.
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return align_down(value + alignment - 1, alignment);
}

}  // namespace trapeze
