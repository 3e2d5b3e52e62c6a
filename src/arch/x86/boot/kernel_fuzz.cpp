// Every kernel loader on hostile bytes, into a small guest: an Error or a loaded kernel, never a
// crash, and a loaded kernel lies in RAM.
#include "arch/x86/boot/fuzz_seeds.h"
#include "arch/x86/boot/test_images.h"

namespace {

using namespace trapeze;
using namespace trapeze::boot;

enum Shape : uint8_t { kAsIs, kPadded, kAsPayload, kAsSetupHeaderAndPayload };
constexpr size_t kPaddedBytes = 16 * KiB;
constexpr size_t kSetupHeaderBytes = setup::kMaxEnd - setup::kStart;

test::Bytes shaped(uint8_t shape, std::span<const std::byte> bytes) {
  test::Bytes image(bytes.begin(), bytes.end());
  switch (shape % 4) {
    case kPadded:
      image.resize(std::max(image.size(), kPaddedBytes));
      return image;
    case kAsPayload:
      image.resize(std::max(image.size(), kPaddedBytes));
      return test::make_bzimage(image);
    case kAsSetupHeaderAndPayload: {
      const size_t header_bytes = std::min(image.size(), kSetupHeaderBytes);
      test::Bytes bzimage =
          test::make_bzimage({image.begin() + static_cast<long>(header_bytes), image.end()});
      std::memcpy(bzimage.data() + setup::kStart, image.data(), header_bytes);
      return bzimage;
    }
    default:
      return image;
  }
}

// ELF headers whose notes and segments lie in the first half KiB.
test::Bytes small_elf(test::Bytes elf, size_t phdr_bytes, size_t ehdr_bytes, bool is_64bit) {
  constexpr size_t kNotesAt = 0x180;
  const test::Bytes notes = test::encode_notes({test::linux_note(), test::pvh_note(0x20'0000)});
  const size_t note_phdr = ehdr_bytes + 2 * phdr_bytes;
  elf.resize(kNotesAt);
  if (is_64bit) {
    test::put(elf, note_phdr + offsetof(Elf64_Phdr, p_offset), uint64_t{kNotesAt});
  } else {
    test::put(elf, note_phdr + offsetof(Elf32_Phdr, p_offset), uint32_t{kNotesAt});
  }
  test::append(elf, notes);
  return elf;
}

test::Bytes seed_of(uint8_t shape, test::Bytes bytes) {
  bytes.insert(bytes.begin(), std::byte{shape});
  return bytes;
}

const std::vector<test::Bytes>& seeds() {
  static const std::vector<test::Bytes> all = [] {
    const std::vector<test::TestSegment> segments = {{0x20'0000, test::pattern(400, 1), 100, 0},
                                                     {0x30'0000, test::pattern(400, 2), 5000, 0}};
    const std::vector<test::TestNote> notes = {test::linux_note(), test::pvh_note(0x20'0000)};
    const test::Bytes elf64 = small_elf(test::make_elf64(0x20'0000, segments, notes),
                                        sizeof(Elf64_Phdr), sizeof(Elf64_Ehdr), true);
    const test::Bytes elf32 = small_elf(test::make_elf32(0x20'0000, segments, notes),
                                        sizeof(Elf32_Phdr), sizeof(Elf32_Ehdr), false);
    test::Bytes multiboot;
    for (const uint32_t word : {0x1bad'b002U, 0x1'0003U, 0U - 0x1bad'b002U - 0x1'0003U, 0x10'0000U,
                                0x10'0000U, 0x10'1000U, 0x10'2000U, 0x10'0010U}) {
      test::put(multiboot, multiboot.size(), word);
    }
    test::Bytes elf_multiboot = elf32;
    test::append(elf_multiboot, multiboot);
    const test::Bytes bzimage = test::make_bzimage(elf64);
    const test::Bytes header(bzimage.begin() + setup::kStart, bzimage.begin() + setup::kMaxEnd);
    test::Bytes header_and_payload = header;
    test::append(header_and_payload, elf64);
    return std::vector<test::Bytes>{
        seed_of(kPadded, elf64),     seed_of(kPadded, elf32),
        seed_of(kPadded, multiboot), seed_of(kPadded, elf_multiboot),
        seed_of(kAsPayload, elf64),  seed_of(kAsPayload, test::pack_gzip(elf64)),
        seed_of(kAsPayload, elf32),  seed_of(kAsSetupHeaderAndPayload, header_and_payload),
        seed_of(kAsIs, multiboot)};
  }();
  return all;
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned random) {
  return test::mutate_from_seeds(seeds(), data, size, max_size, random);
}

// The first byte: bits 0 and 1 the shape, 2 prefer PVH, 3 used RAM, 4 with an initial RAM disk.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const test::Bytes image = shaped(data[0], std::as_bytes(std::span(data, size)).subspan(1));
  static const test::Bytes initrd = test::pattern(10'000, 5);
  auto memory = test::make_memory(64 * MiB);
  BootConfig config;
  config.kernel_name = "fuzz";
  config.cmdline = "a b c";
  config.prefer_pvh = (data[0] & 4) != 0;
  config.ram_is_zero = (data[0] & 8) == 0;
  if ((data[0] & 16) != 0) config.initrd = initrd;
  const auto loaded = load_kernel(image, config, *memory);
  if (!loaded) {
    CHECK(!loaded.error().message.empty());
    return 0;
  }
  CHECK(memory->host(Gpa{loaded->boot_vcpu.rip}, 1) != nullptr);
  CHECK(loaded->kernel.end() <= memory->end());
  // Whatever came after it, the initial RAM disk is still whole.
  CHECK(loaded->initrd.size == config.initrd.size());
  CHECK(config.initrd.empty() ||
        test::read_guest(*memory, loaded->initrd.start, initrd.size()) == initrd);
  return 0;
}
