// BlockMap: one bit for each block of a disk: whether an overlay has it. Untouched parts of the map
// cost no memory. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"

namespace trapeze {

class BlockMap {
 public:
  static constexpr uint64_t kBlockBytes = 4 * KiB;
  // Changes are told in pieces of this many bytes of the map: 128 MiB of the disk each.
  static constexpr uint64_t kPageBytes = 4 * KiB;

  static Result<BlockMap> create(uint64_t disk_bytes);

  uint64_t blocks() const { return blocks_; }
  // All of the map, in whole pages: bit n % 8 of byte n / 8 is block n.
  std::span<std::byte> bytes() { return bits_.bytes(); }

  bool has(uint64_t block) const { return (word(block / 64) >> (block % 64) & 1) != 0; }
  // The number of blocks from `block` on, at most `limit` and at least 1, that are all there, or
  // all not, as `block` itself.
  uint64_t run_length(uint64_t block, uint64_t limit) const;
  void set(uint64_t first, uint64_t count);

  bool is_dirty() const { return dirty_count_ != 0; }
  // Pages that changed since they were taken last.
  std::vector<uint64_t> take_dirty_pages();
  void mark_dirty(uint64_t page);
  uint64_t count() const;  // of blocks that are there; looks at all

 private:
  BlockMap(Mapping bits, uint64_t blocks)
      : bits_(std::move(bits)), blocks_(blocks), dirty_(bits_.size() / kPageBytes) {}
  uint64_t word(uint64_t index) const {
    return reinterpret_cast<const uint64_t*>(bits_.data())[index];
  }
  uint64_t& word(uint64_t index) { return reinterpret_cast<uint64_t*>(bits_.data())[index]; }

  Mapping bits_;
  uint64_t blocks_;
  std::vector<bool> dirty_;
  uint64_t dirty_count_ = 0;
};

}  // namespace trapeze
