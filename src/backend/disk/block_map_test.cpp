#include "backend/disk/block_map.h"

#include <gtest/gtest.h>

#include <random>

namespace trapeze {
namespace {

TEST(BlockMap, runs_agree_with_a_plain_list) {
  constexpr uint64_t kBlocks = 1000;
  BlockMap map = std::move(BlockMap::create(kBlocks * BlockMap::kBlockBytes - 512)).value();
  ASSERT_EQ(map.blocks(), kBlocks);
  std::vector<bool> plain(kBlocks);
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    const uint64_t first = random() % kBlocks;
    const uint64_t count = 1 + random() % std::min<uint64_t>(kBlocks - first, 130);
    if (round % 4 == 0) {
      map.set(first, count);
      std::fill_n(plain.begin() + static_cast<ptrdiff_t>(first), count, true);
    }
    uint64_t expected = 0;
    while (expected < count && plain[first + expected] == plain[first]) ++expected;
    ASSERT_EQ(map.has(first), plain[first]);
    ASSERT_EQ(map.run_length(first, count), expected) << first << " " << count;
  }
  EXPECT_EQ(map.count(), static_cast<uint64_t>(std::count(plain.begin(), plain.end(), true)));
}

TEST(BlockMap, only_pages_that_changed_are_dirty) {
  BlockMap map = std::move(BlockMap::create(1 * GiB)).value();
  const uint64_t blocks_a_page = BlockMap::kPageBytes * 8;
  EXPECT_FALSE(map.is_dirty());
  map.set(blocks_a_page * 2 - 1, 2);
  EXPECT_EQ(map.take_dirty_pages(), (std::vector<uint64_t>{1, 2}));
  map.set(blocks_a_page * 2 - 1, 2);
  EXPECT_FALSE(map.is_dirty());
  map.set(0, 1);
  EXPECT_EQ(map.take_dirty_pages(), std::vector<uint64_t>{0});
}

}  // namespace
}  // namespace trapeze
