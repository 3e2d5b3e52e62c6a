#include "backend/disk/overlay_format.h"

#include <algorithm>
#include <cstring>

#include "backend/disk/block_map.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'P', 'Z', 'O', 'V', 'L', '\n'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kDataAlignment = 1 * MiB;
constexpr uint64_t kMaxDiskBytes = uint64_t{1} << 62;
constexpr uint64_t kSectorSize = 512;

struct OverlayHeader {
  char magic[8];
  uint32_t version;
  uint32_t block_bytes;
  uint64_t checksum;  // of the whole header area, with this field as 0
  uint64_t base_bytes;
  int64_t base_mtime_s;
  uint32_t base_mtime_ns;
  uint32_t path_bytes;
  uint64_t map_offset;
  uint64_t map_bytes;
  uint64_t data_offset;
};
static_assert(sizeof(OverlayHeader) == 72);
constexpr uint64_t kMaxPathBytes = kOverlayMapOffset - sizeof(OverlayHeader);

// FNV-1a, 64 bit: finds torn and damaged headers, guards against nothing.
uint64_t checksum_of(std::span<const std::byte> head) {
  uint64_t hash = 0xcbf2'9ce4'8422'2325;
  for (size_t i = 0; i < head.size(); ++i) {
    const bool is_own = i >= offsetof(OverlayHeader, checksum) &&
                        i < offsetof(OverlayHeader, checksum) + sizeof(uint64_t);
    hash = (hash ^ (is_own ? 0 : static_cast<uint64_t>(head[i]))) * 0x100'0000'01b3;
  }
  return hash;
}

}  // namespace

OverlayLayout plan_overlay(const BaseIdentity& base, const std::string& base_path) {
  OverlayLayout layout;
  layout.base = base;
  layout.base_path = base_path.substr(0, kMaxPathBytes);
  const uint64_t blocks = (base.size_bytes + BlockMap::kBlockBytes - 1) / BlockMap::kBlockBytes;
  layout.map_bytes = align_up((blocks + 7) / 8, BlockMap::kPageBytes);
  layout.data_offset = align_up(kOverlayMapOffset + layout.map_bytes, kDataAlignment);
  return layout;
}

std::vector<std::byte> encode_overlay_header(const OverlayLayout& layout) {
  std::vector<std::byte> head(kOverlayMapOffset);
  OverlayHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.block_bytes = BlockMap::kBlockBytes;
  header.base_bytes = layout.base.size_bytes;
  header.base_mtime_s = layout.base.mtime_s;
  header.base_mtime_ns = layout.base.mtime_ns;
  header.path_bytes = static_cast<uint32_t>(layout.base_path.size());
  header.map_offset = kOverlayMapOffset;
  header.map_bytes = layout.map_bytes;
  header.data_offset = layout.data_offset;
  std::memcpy(head.data(), &header, sizeof(header));
  std::memcpy(head.data() + sizeof(header), layout.base_path.data(), layout.base_path.size());
  store_le<uint64_t>(head, offsetof(OverlayHeader, checksum), checksum_of(head));
  return head;
}

Result<OverlayLayout> decode_overlay_header(std::span<const std::byte> head) {
  if (head.size() < kOverlayMapOffset) return fail("is no overlay (too short)");
  head = head.first(kOverlayMapOffset);
  const auto header = load_le<OverlayHeader>(head, 0);
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return fail("is no overlay");
  if (header.version != kVersion || header.block_bytes != BlockMap::kBlockBytes) {
    return fail(
        "is an overlay of version {} with blocks of {} bytes; this program knows version {} "
        "with {}",
        header.version, header.block_bytes, kVersion, BlockMap::kBlockBytes);
  }
  if (header.checksum != checksum_of(head)) return fail("is a damaged overlay (header checksum)");
  OverlayLayout layout;
  layout.base = {header.base_bytes, header.base_mtime_s, header.base_mtime_ns};
  if (header.base_bytes == 0 || header.base_bytes % kSectorSize != 0 ||
      header.base_bytes > kMaxDiskBytes || header.path_bytes > kMaxPathBytes) {
    return fail("is a damaged overlay (sizes)");
  }
  layout.base_path.assign(reinterpret_cast<const char*>(head.data()) + sizeof(header),
                          header.path_bytes);
  const OverlayLayout expected = plan_overlay(layout.base, layout.base_path);
  if (header.map_offset != kOverlayMapOffset || header.map_bytes != expected.map_bytes ||
      header.data_offset != expected.data_offset) {
    return fail("is a damaged overlay (layout)");
  }
  return expected;
}

}  // namespace trapeze
