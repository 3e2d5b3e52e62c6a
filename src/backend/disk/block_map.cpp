#include "backend/disk/block_map.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace trapeze {

Result<BlockMap> BlockMap::create(uint64_t disk_bytes) {
  const uint64_t blocks = (disk_bytes + kBlockBytes - 1) / kBlockBytes;
  const uint64_t bytes = align_up((blocks + 7) / 8, kPageBytes);
  return BlockMap(TRY(Mapping::anonymous(bytes, "the map of a disk overlay")), blocks);
}

uint64_t BlockMap::run_length(uint64_t block, uint64_t limit) const {
  DCHECK(block < blocks_ && limit > 0);
  const uint64_t end = std::min(blocks_, block + limit);
  const bool wanted = has(block);
  uint64_t at = block;
  while (at < end) {
    // Bits from `at` on, so turned that equal ones are zeros.
    const uint64_t differing = (wanted ? ~word(at / 64) : word(at / 64)) >> (at % 64);
    if (differing != 0) {
      at += static_cast<uint64_t>(std::countr_zero(differing));
      break;
    }
    at += 64 - at % 64;
  }
  return std::min(at, end) - block;
}

void BlockMap::set(uint64_t first, uint64_t count) {
  DCHECK(first + count <= blocks_);
  for (uint64_t at = first, end = first + count; at < end;) {
    const uint64_t bits = std::min(end - at, 64 - at % 64);
    const uint64_t mask = (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << (at % 64);
    uint64_t& target = word(at / 64);
    if ((target & mask) != mask) {
      target |= mask;
      mark_dirty(at / 8 / kPageBytes);
    }
    at += bits;
  }
}

void BlockMap::mark_dirty(uint64_t page) {
  if (dirty_[page]) return;
  dirty_[page] = true;
  ++dirty_count_;
}

std::vector<uint64_t> BlockMap::take_dirty_pages() {
  std::vector<uint64_t> pages;
  if (dirty_count_ == 0) return pages;
  for (uint64_t page = 0; page < dirty_.size(); ++page) {
    if (!dirty_[page]) continue;
    pages.push_back(page);
    dirty_[page] = false;
  }
  dirty_count_ = 0;
  return pages;
}

uint64_t BlockMap::count() const {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < (blocks_ + 63) / 64; ++i) {
    sum += static_cast<uint64_t>(std::popcount(word(i)));
  }
  return sum;
}

}  // namespace trapeze
