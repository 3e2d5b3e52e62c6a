// The layouts and numbers of virtio-pmem (virtio 1.2 §5.19). All integers are little-endian.
#pragma once

#include <cstdint>

namespace trapeze::pmem {

// §5.19.4.
struct Config {
  uint64_t start = 0;  // guest physical address
  uint64_t size = 0;
};
static_assert(sizeof(Config) == 16);

// §5.19.6.
struct Request {
  uint32_t type = 0;
};
inline constexpr uint32_t kRequestFlush = 0;

struct Response {
  uint32_t result = 0;
};
inline constexpr uint32_t kResultOk = 0;
inline constexpr uint32_t kResultError = 1;

}  // namespace trapeze::pmem
