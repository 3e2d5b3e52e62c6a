// Every decompressor on hostile bytes: bounded output, bounded memory, no crash.
#include "arch/x86/boot/decompress.h"
#include "arch/x86/boot/fuzz_seeds.h"
#include "arch/x86/boot/test_images.h"

namespace {

using namespace trapeze;
using namespace trapeze::boot;

constexpr uint64_t kLimit = 4 * MiB;

class CountingSink final : public OutputSink {
 public:
  Result<void> put(std::span<const std::byte> bytes) override {
    if (bytes.size() > kLimit - total_) return fail("limit");
    for (const std::byte byte : bytes) sum_ ^= byte;  // reads all of it, for the sanitizers
    total_ += bytes.size();
    return {};
  }
  uint64_t limit_bytes() const override { return kLimit; }

 private:
  uint64_t total_ = 0;
  std::byte sum_{};
};

const std::vector<test::Bytes>& seeds() {
  static const std::vector<test::Bytes> all = [] {
    const test::Bytes plain = test::pattern(2000, 1);
    std::vector<test::Bytes> made = {test::pack_gzip(plain), test::pack_xz(plain),
                                     test::pack_lzma_alone(plain), test::pack_lz4(plain),
                                     test::pack_zstd(plain)};
    for (test::Bytes& seed : made) {
      seed = test::with_size(std::move(seed), plain);
      seed.insert(seed.begin(), std::byte{0});
    }
    return made;
  }();
  return all;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned random) {
  return test::mutate_from_seeds(seeds(), data, size, max_size, random);
}

// The first byte forces a format where it is not 0; else the magic number decides.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto packed = std::as_bytes(std::span(data, size)).subspan(1);
  constexpr unsigned kFormats = static_cast<unsigned>(Compression::Unknown) + 1;
  const Compression compression =
      data[0] == 0 ? detect_compression(packed) : static_cast<Compression>(data[0] % kFormats);
  CountingSink sink;
  (void)decompress(compression, packed, "fuzz", sink);
  return 0;
}
