// Overlay headers may come from anywhere: what decodes must encode to the same, and give sizes that
// can be computed with.
#include <vector>

#include "backend/disk/block_map.h"
#include "backend/disk/overlay_format.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  (void)decode_overlay_header(bytes);
  // A header that is sound but for the bytes of the input: XOR over a good one.
  const OverlayLayout good =
      plan_overlay({.size_bytes = 1 << 20, .mtime_s = 5, .mtime_ns = 6}, "/b");
  std::vector<std::byte> head = encode_overlay_header(good);
  CHECK(decode_overlay_header(head).has_value());
  bool is_changed = false;
  for (size_t i = 0; i < std::min(size, head.size()); ++i) {
    head[i] ^= bytes[i];
    is_changed |= bytes[i] != std::byte{0};
  }
  const auto decoded = decode_overlay_header(head);
  CHECK(is_changed || decoded.has_value());
  if (!decoded) return 0;
  CHECK(decoded->map_bytes % BlockMap::kPageBytes == 0);
  CHECK(decoded->data_offset >= kOverlayMapOffset + decoded->map_bytes);
  CHECK(decoded->file_bytes() > decoded->data_offset);
  return 0;
}
