// A libFuzzer mutator that starts from built-in seeds, so that the fuzzers of this folder get past
// magic numbers and checksums without a corpus on disk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace trapeze::boot::test {

inline size_t mutate_from_seeds(const std::vector<std::vector<std::byte>>& seeds, uint8_t* data,
                                size_t size, size_t max_size, unsigned random) {
  constexpr unsigned kRestartOneIn = 64;
  constexpr size_t kTooSmallToBeAnything = 24;
  if (size < kTooSmallToBeAnything || random % kRestartOneIn == 0) {
    const auto& seed = seeds[random / kRestartOneIn % seeds.size()];
    size = std::min(seed.size(), max_size);
    std::memcpy(data, seed.data(), size);
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

}  // namespace trapeze::boot::test
