// The file of a kept overlay: header, map, data. All integers are little-endian.
//
//   0             OverlayHeader, then the path of the base, to kMapOffset
//   kMapOffset    one bit for each block of the disk (BlockMap), in whole pages
//   data_offset   the disk's bytes, each at data_offset + its offset; holes where the overlay has
//                 no block
//
// A block counts as there when its bit in the file says so. Bits are written only after the data
// that they speak of is on stable storage, so a file that a crash left behind is always sound: it
// has the disk as it was at the last flush, and perhaps more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze {

// What tells that a base is still the one an overlay was made on.
struct BaseIdentity {
  uint64_t size_bytes = 0;
  int64_t mtime_s = 0;  // both 0 for a block device, which has no such time
  uint32_t mtime_ns = 0;
  bool operator==(const BaseIdentity&) const = default;
};

struct OverlayLayout {
  BaseIdentity base;
  std::string base_path;  // as it was called when the overlay was made
  uint64_t map_bytes = 0;
  uint64_t data_offset = 0;

  uint64_t file_bytes() const { return data_offset + base.size_bytes; }
};

inline constexpr uint64_t kOverlayMapOffset = 8192;

// The layout for a new overlay.
OverlayLayout plan_overlay(const BaseIdentity& base, const std::string& base_path);
// kOverlayMapOffset bytes.
std::vector<std::byte> encode_overlay_header(const OverlayLayout& layout);
// `head` is the beginning of the file, kOverlayMapOffset bytes or all there is. The error says what
// is wrong, without a path.
Result<OverlayLayout> decode_overlay_header(std::span<const std::byte> head);

}  // namespace trapeze
