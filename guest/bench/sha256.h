// SHA-256 (FIPS 180-4) in plain C++.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bench {

struct Digest {
  uint32_t words[8];
};

Digest sha256(const unsigned char* data, size_t bytes);

}  // namespace bench
