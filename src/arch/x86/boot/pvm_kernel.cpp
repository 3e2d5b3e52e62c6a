#include "arch/x86/boot/pvm_kernel.h"

#include <algorithm>
#include <array>
#include <functional>

namespace trapeze::boot {

bool has_pvm_cpuid(std::span<const std::byte> image) {
  static constexpr std::array kBytes{
      std::byte{0x0f}, std::byte{0x01}, std::byte{0x3c}, std::byte{0x25}, std::byte{0x50},
      std::byte{0x56}, std::byte{0x4d}, std::byte{0xff}, std::byte{0x0f}, std::byte{0xa2}};
  const std::boyer_moore_horspool_searcher searcher(kBytes.begin(), kBytes.end());
  return std::search(image.begin(), image.end(), searcher) != image.end();
}

}  // namespace trapeze::boot
