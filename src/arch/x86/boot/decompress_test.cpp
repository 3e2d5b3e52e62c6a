#include "arch/x86/boot/decompress.h"

#include <gtest/gtest.h>

#include "arch/x86/boot/test_images.h"

namespace trapeze::boot {
namespace {

using test::Bytes;

class CollectingSink final : public OutputSink {
 public:
  explicit CollectingSink(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  Result<void> put(std::span<const std::byte> bytes) override {
    if (bytes.size() > limit_bytes_ - all.size()) return fail("limit reached");
    all.insert(all.end(), bytes.begin(), bytes.end());
    return {};
  }
  uint64_t limit_bytes() const override { return limit_bytes_; }
  Bytes all;

 private:
  uint64_t limit_bytes_;
};

struct Format {
  const char* name;
  Compression compression;
  Bytes (*pack)(const Bytes&);
  bool has_checksum;
};

class DecompressTest : public testing::TestWithParam<Format> {
 protected:
  const Bytes plain_ = test::pattern(200'000, 7);
  const Bytes packed_ = test::with_size(GetParam().pack(plain_), plain_);
};

TEST_P(DecompressTest, WholeStreamWithTrailer_GivesOriginal) {
  ASSERT_EQ(detect_compression(packed_), GetParam().compression);
  CollectingSink sink(8 * MiB);
  const auto result = decompress(GetParam().compression, packed_, "k", sink);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(sink.all == plain_);
}

TEST_P(DecompressTest, OutputOverLimit_Fails) {
  CollectingSink sink(plain_.size() - 1);
  EXPECT_FALSE(decompress(GetParam().compression, packed_, "k", sink));
  EXPECT_LT(sink.all.size(), plain_.size());
}

TEST_P(DecompressTest, CutOff_FailsOrGivesLess) {
  for (const size_t length : {size_t{6}, packed_.size() / 2, packed_.size() - 100}) {
    CollectingSink sink(8 * MiB);
    const auto result =
        decompress(GetParam().compression, std::span(packed_).first(length), "k", sink);
    EXPECT_TRUE(!result || sink.all.size() < plain_.size()) << length;
  }
}

TEST_P(DecompressTest, FlippedByte_NeverCrashesAndIsFoundByChecksum) {
  for (size_t at = 5; at < packed_.size() - 4; at += packed_.size() / 23) {
    Bytes damaged = packed_;
    damaged[at] ^= std::byte{0x55};
    CollectingSink sink(8 * MiB);
    const auto result = decompress(GetParam().compression, damaged, "k", sink);
    EXPECT_TRUE(!result || sink.all == plain_ || !GetParam().has_checksum) << at;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, DecompressTest,
    testing::Values(Format{"gzip", Compression::Gzip, test::pack_gzip, true},
                    Format{"xz", Compression::Xz, test::pack_xz, true},
                    Format{"lzma", Compression::Lzma, test::pack_lzma_alone, false},
                    Format{"lz4", Compression::Lz4, test::pack_lz4, false},
                    Format{"zstd", Compression::Zstd, test::pack_zstd, false}),
    [](const testing::TestParamInfo<Format>& param) { return param.param.name; });

TEST(DecompressLz4Test, SeveralBlocks_GiveOriginal) {
  const Bytes plain = test::pattern(9 * MiB, 3);
  CollectingSink sink(16 * MiB);
  ASSERT_TRUE(
      decompress(Compression::Lz4, test::with_size(test::pack_lz4(plain), plain), "k", sink));
  EXPECT_TRUE(sink.all == plain);
}

TEST(DecompressZstdTest, TrailerClaimsMoreThanLimit_FailsBeforeAllocating) {
  Bytes packed = test::pack_zstd(test::pattern(1000, 1));
  test::put(packed, packed.size(), uint32_t{0xffff'ffff});
  CollectingSink sink(1 * MiB);
  const auto result = decompress(Compression::Zstd, packed, "kernel.img", sink);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("kernel.img: the payload unpacks to 4294967295 bytes"),
            std::string::npos);
}

TEST(DecompressXzTest, HugeDictionary_IsRefused) {
  Bytes packed = test::pack_lzma_alone(test::pattern(1000, 1));
  test::put(packed, 1, uint32_t{0x6000'0000});  // dictionary size of the .lzma header
  CollectingSink sink(1 * MiB);
  const auto result = decompress(Compression::Lzma, packed, "k", sink);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("dictionary is too large"), std::string::npos);
}

TEST(DecompressTest, UnsupportedFormats_AreNamed) {
  EXPECT_EQ(detect_compression(test::bytes_of_text("BZh91AY")), Compression::Bzip2);
  EXPECT_EQ(detect_compression(test::bytes_of_text("\x89LZO\r\n")), Compression::Lzo);
  CollectingSink sink(1 * MiB);
  const auto result = decompress(Compression::Bzip2, test::bytes_of_text("BZh91AY"), "k", sink);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("bzip2"), std::string::npos);
}

}  // namespace
}  // namespace trapeze::boot
