#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "arch/x86/boot/test_images.h"

namespace trapeze::boot {
namespace {

using test::Bytes;

class LinuxBootTest : public testing::Test {
 protected:
  Result<LoadedKernel> load(const Bytes& image) { return load_kernel(image, config_, *memory_); }
  template <typename T>
  T zero_page(uint64_t offset) const {
    return memory_->load<T>(layout::kZeroPage + offset).value();
  }

  std::unique_ptr<GuestMemory> memory_ = test::make_memory(64 * MiB);
  BootConfig config_{.kernel_name = "vmlinuz",
                     .initrd_name = "initrd.img",
                     .cmdline = "console=ttyS0 quiet",
                     .initrd = {},
                     .acpi_rsdp = Gpa{0xe0000}};
};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

void expect_segments(const GuestMemory& memory) {
  for (const test::TestSegment& segment : test::linux_segments()) {
    EXPECT_TRUE(test::read_guest(memory, Gpa{segment.paddr}, segment.content.size()) ==
                segment.content);
    EXPECT_TRUE(test::read_guest(memory, Gpa{segment.paddr + segment.content.size()},
                                 segment.bss_bytes) == Bytes(segment.bss_bytes));
  }
}

// boot.rst, "64-bit Boot Protocol", and SDM 3A 10.8.5 for what long mode needs.
void expect_64bit_entry(const GuestMemory& memory, const VcpuState& state) {
  EXPECT_EQ(state.rip, 0x100'0000U);
  EXPECT_EQ(state.gpr[kRsi], layout::kZeroPage.raw());
  EXPECT_EQ(state.rflags, 2U);
  EXPECT_EQ(state.cr0, 0x8000'0031U);  // PG, NE, ET, PE
  EXPECT_EQ(state.cr4, 0x20U);         // PAE
  EXPECT_EQ(state.efer, 0x500U);       // LMA, LME
  EXPECT_EQ(state.mp_state, MpState::Runnable);
  EXPECT_EQ(state.segments[kCs], (Segment{0, 0xffff'ffff, 0xa09b, 0x10}));
  for (const SegIndex data : {kDs, kEs, kSs, kFs, kGs}) {
    EXPECT_EQ(state.segments[data], (Segment{0, 0xffff'ffff, 0xc093, 0x18}));
  }
  EXPECT_EQ(state.tr.access, 0x8bU);  // busy, as VM entry wants it
  EXPECT_EQ(state.gdtr.base, layout::kBootGdt.raw());
  EXPECT_EQ(state.gdtr.limit, 6 * 8 - 1);
  // The table says what the registers say.
  EXPECT_EQ(memory.load<uint64_t>(layout::kBootGdt + 0x10), 0x00af9b000000ffffU);
  EXPECT_EQ(memory.load<uint64_t>(layout::kBootGdt + 0x18), 0x00cf93000000ffffU);
}

std::optional<uint64_t> walk(const GuestMemory& memory, uint64_t cr3, uint64_t vaddr) {
  const uint64_t pml4e = memory.load<uint64_t>(Gpa{cr3 + 8 * (vaddr >> 39 & 511)}).value();
  if ((pml4e & 1) == 0) return std::nullopt;
  const uint64_t pdpte =
      memory.load<uint64_t>(Gpa{(pml4e & ~0xfffULL) + 8 * (vaddr >> 30 & 511)}).value();
  if ((pdpte & 1) == 0) return std::nullopt;
  const uint64_t pde =
      memory.load<uint64_t>(Gpa{(pdpte & ~0xfffULL) + 8 * (vaddr >> 21 & 511)}).value();
  if ((pde & 0x83) != 0x83) return std::nullopt;  // present, writable, 2 MiB
  return (pde & ~0x1fffffULL) + (vaddr & 0x1fffff);
}

TEST_F(LinuxBootTest, BzImageOfEveryPacking_LandsAtLinkAddress) {
  const Bytes elf = test::linux_elf();
  const Bytes payloads[] = {test::pack_gzip(elf),
                            test::with_size(test::pack_xz(elf), elf),
                            test::with_size(test::pack_lzma_alone(elf), elf),
                            test::with_size(test::pack_lz4(elf), elf),
                            test::with_size(test::pack_zstd(elf), elf),
                            elf};
  for (const Bytes& payload : payloads) {
    memory_ = test::make_memory(64 * MiB);
    const auto loaded = load(test::make_bzimage(payload));
    ASSERT_TRUE(loaded) << test::error_of(loaded);
    EXPECT_EQ(loaded->kind, KernelKind::BzImage);
    EXPECT_EQ(loaded->kernel, (GpaRange{Gpa{0x100'0000}, 0x20'0000 + 120'000}));
    expect_segments(*memory_);
    expect_64bit_entry(*memory_, loaded->boot_vcpu);
  }
}

Fd file_of(const Bytes& bytes) {
  Fd file(::memfd_create("image", MFD_CLOEXEC));
  CHECK(::write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return file;
}

// Whole memory must be the same, whether pages come from the file or are copies.
TEST_F(LinuxBootTest, StableFiles_AreMappedToTheSameMemory) {
  const Bytes elf = test::linux_elf();
  const Bytes initrd = test::pattern(123'457, 9);
  const Bytes overlay = test::pattern(1'000, 4);
  config_.initrd = initrd;
  config_.initrd_overlay = overlay;
  const auto copied = load(elf);
  ASSERT_TRUE(copied) << test::error_of(copied);
  const Bytes expected = test::read_guest(*memory_, Gpa{0}, 64 * MiB);

  const Fd kernel_file = file_of(elf);
  const Fd initrd_file = file_of(initrd);
  config_.kernel_file = &kernel_file;
  config_.initrd_file = &initrd_file;
  memory_ = test::make_memory(64 * MiB);
  const auto mapped = load(elf);
  ASSERT_TRUE(mapped) << test::error_of(mapped);
  EXPECT_TRUE(test::read_guest(*memory_, Gpa{0}, 64 * MiB) == expected);
  EXPECT_EQ(mapped->boot_vcpu, copied->boot_vcpu);
  EXPECT_EQ(mapped->initrd, copied->initrd);
  // And mapped it was: what is written to the file afterwards shows in pages that nobody touched.
  ASSERT_EQ(::pwrite(kernel_file.get(), "mapped", 6, kPageSize), 6);
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x100'0000}, 6), test::bytes_of_text("mapped"));
}

TEST_F(LinuxBootTest, SegmentsThatCannotBeMapped_AreCopied) {
  // Addresses that are not where a page of the file could go.
  const std::vector<test::TestSegment> segments{{0x100'0100, test::pattern(300'000, 1), 5'000}};
  const Bytes elf = test::make_elf64(0x100'0100, segments, {test::linux_note()});
  const Fd kernel_file = file_of(elf);
  config_.kernel_file = &kernel_file;
  const auto loaded = load(elf);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x100'0100}, 300'000), segments[0].content);
}

TEST_F(LinuxBootTest, Overlay_StandsBehindTheRamDiskAtAMultipleOfFour) {
  const Bytes initrd = test::pattern(4'098, 9);
  const Bytes overlay = test::pattern(300, 4);
  config_.initrd = initrd;
  config_.initrd_overlay = overlay;
  const auto loaded = load(test::linux_elf());
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->initrd.size, 4'400U);
  Bytes expected = initrd;
  expected.resize(4'100);
  test::append(expected, overlay);
  EXPECT_EQ(test::read_guest(*memory_, loaded->initrd.start, 4'400), expected);
}

TEST_F(LinuxBootTest, PageTables_MapFourGiBOneToOne) {
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  const uint64_t cr3 = loaded->boot_vcpu.cr3;
  for (const uint64_t vaddr : {uint64_t{0}, uint64_t{0x100'0000}, 3 * GiB + 12345, 4 * GiB - 1}) {
    EXPECT_EQ(walk(*memory_, cr3, vaddr), vaddr);
  }
  EXPECT_EQ(walk(*memory_, cr3, 4 * GiB), std::nullopt);
}

TEST_F(LinuxBootTest, ZeroPage_SaysWhatWasLoaded) {
  const Bytes initrd = test::pattern(123'456, 9);
  config_.initrd = initrd;
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  ASSERT_TRUE(loaded) << test::error_of(loaded);

  EXPECT_EQ(zero_page<uint8_t>(0x1ef), 0);  // sentinel
  EXPECT_EQ(zero_page<uint16_t>(0x1fe), 0xaa55);
  EXPECT_EQ(zero_page<uint16_t>(0x206), 0x20f);
  EXPECT_EQ(zero_page<uint8_t>(0x210), 0xff);
  EXPECT_EQ(zero_page<uint8_t>(0x211), 1);    // LOADED_HIGH, and no KASLR_FLAG
  EXPECT_EQ(zero_page<uint64_t>(0x250), 0U);  // setup_data
  EXPECT_EQ(zero_page<uint64_t>(0x70), 0xe0000U);
  EXPECT_EQ(zero_page<uint32_t>(0x228), layout::kCommandLine.raw());
  const std::string cmdline = "console=ttyS0 quiet";
  Bytes expected = test::bytes_of_text(cmdline);
  expected.push_back(std::byte{0});
  EXPECT_EQ(test::read_guest(*memory_, layout::kCommandLine, cmdline.size() + 1), expected);

  EXPECT_EQ(zero_page<uint32_t>(0x218), loaded->initrd.start.raw());
  EXPECT_EQ(zero_page<uint32_t>(0x21c), initrd.size());
  EXPECT_EQ(loaded->initrd.start.raw() % kPageSize, 0U);
  EXPECT_EQ(loaded->initrd.start.raw(), align_down(64 * MiB - initrd.size(), kPageSize));
  EXPECT_TRUE(test::read_guest(*memory_, loaded->initrd.start, initrd.size()) == initrd);
}

TEST_F(LinuxBootTest, E820_HasRamOutsideOfBiosAreaAndHole) {
  memory_ = test::make_memory(4 * GiB);
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  struct Entry {
    uint64_t start, size;
    uint32_t type;
  };
  const Entry expected[] = {{0, 0x9fc00, 1},
                            {0x9fc00, 0x60400, 2},
                            {0x10'0000, 3 * GiB - MiB, 1},
                            {0xe000'0000, 0x1000'0000, 2},
                            {4 * GiB, 1 * GiB, 1}};
  ASSERT_EQ(zero_page<uint8_t>(0x1e8), std::size(expected));
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_EQ(zero_page<uint64_t>(0x2d0 + 20 * i), expected[i].start) << i;
    EXPECT_EQ(zero_page<uint64_t>(0x2d8 + 20 * i), expected[i].size) << i;
    EXPECT_EQ(zero_page<uint32_t>(0x2e0 + 20 * i), expected[i].type) << i;
  }
}

TEST_F(LinuxBootTest, InitrdWithMuchRam_StaysBelowInitrdAddrMax) {
  memory_ = test::make_memory(4 * GiB);
  const Bytes initrd = test::pattern(5000, 9);
  config_.initrd = initrd;
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->initrd.start.raw(), 0x8000'0000U - 8192);
}

TEST_F(LinuxBootTest, InitrdLimitBelowKernel_GoesBelowKernel) {
  const Bytes initrd = test::pattern(5000, 9);
  config_.initrd = initrd;
  const auto loaded =
      load(test::make_bzimage(test::pack_gzip(test::linux_elf()), {.initrd_addr_max = 0x11f'ffff}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  // 300,000 bytes of kernel at 16 MiB, the next segment 2 MiB up: the gap between is free.
  EXPECT_EQ(loaded->initrd.start.raw(), 0x120'0000U - 8192);
  expect_segments(*memory_);
}

TEST_F(LinuxBootTest, InitrdTooLarge_SaysSo) {
  const Bytes initrd(50 * MiB);
  config_.initrd = initrd;
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  EXPECT_TRUE(contains(test::error_of(loaded), "initrd.img: the initial RAM disk of 50 MiB"))
      << test::error_of(loaded);
}

TEST_F(LinuxBootTest, MemoryTooSmall_SaysHowMuchIsNeeded) {
  memory_ = test::make_memory(18 * MiB);
  const auto loaded = load(test::make_bzimage(test::pack_gzip(test::linux_elf())));
  EXPECT_TRUE(contains(test::error_of(loaded), "give it more than 19 MiB"))
      << test::error_of(loaded);
}

TEST_F(LinuxBootTest, CommandLineOverKernelLimit_Fails) {
  config_.cmdline = std::string(101, 'x');
  const Bytes payload = test::pack_gzip(test::linux_elf());
  EXPECT_TRUE(contains(test::error_of(load(test::make_bzimage(payload, {.cmdline_size = 100}))),
                       "101 bytes, this kernel takes at most 100"));
  EXPECT_TRUE(load(test::make_bzimage(payload, {.cmdline_size = 101})));
}

TEST_F(LinuxBootTest, UsedRam_BssIsCleared) {
  config_.ram_is_zero = false;
  ASSERT_TRUE(memory_->fill(Gpa{0x100'0000}, std::byte{0xaa}, 8 * MiB));
  ASSERT_TRUE(load(test::make_bzimage(test::pack_gzip(test::linux_elf()))));
  expect_segments(*memory_);
  ASSERT_TRUE(memory_->fill(Gpa{0x100'0000}, std::byte{0xaa}, 8 * MiB));
  ASSERT_TRUE(load(test::linux_elf()));
  expect_segments(*memory_);
}

// Pages of a segment that are in memory, by mincore().
size_t resident_pages(const GuestMemory& memory, Gpa start, uint64_t size) {
  std::vector<unsigned char> residency(size / kPageSize);
  CHECK(::mincore(memory.host(start, size), size, residency.data()) == 0);
  return static_cast<size_t>(std::count_if(residency.begin(), residency.end(),
                                           [](unsigned char page) { return (page & 1) != 0; }));
}

TEST_F(LinuxBootTest, PagesOfZerosInTheFile_StayUntouched) {
  Bytes content = test::pattern(2 * kPageSize, 1);
  content.resize(300 * kPageSize);
  content.back() = std::byte{1};
  const Bytes elf = test::make_elf64(0x100'0000, {{0x100'0000, content, 0, 0}});
  for (const Bytes& image : {elf, test::make_bzimage(test::pack_gzip(elf))}) {
    memory_ = test::make_memory(64 * MiB);
    ::madvise(memory_->host_base(), 64 * MiB, MADV_NOHUGEPAGE);  // or one touch brings 512 pages
    ASSERT_TRUE(load(image));
    EXPECT_EQ(resident_pages(*memory_, Gpa{0x100'0000}, content.size()), 3U);
    EXPECT_TRUE(test::read_guest(*memory_, Gpa{0x100'0000}, content.size()) == content);
  }
}

TEST_F(LinuxBootTest, PagesOfZerosInUsedRam_AreWritten) {
  config_.ram_is_zero = false;
  Bytes content(20 * kPageSize);
  const Bytes elf = test::make_elf64(0x100'0000, {{0x100'0000, content, 0, 0}});
  for (const Bytes& image : {elf, test::make_bzimage(test::pack_gzip(elf))}) {
    ASSERT_TRUE(memory_->fill(Gpa{0x100'0000}, std::byte{0xaa}, content.size()));
    ASSERT_TRUE(load(image));
    EXPECT_TRUE(test::read_guest(*memory_, Gpa{0x100'0000}, content.size()) == content);
  }
}

TEST_F(LinuxBootTest, UnknownPacking_EntersTheKernelsOwnDecompressor) {
  const Bytes payload = test::bytes_of_text("BZh91AY&SY and so on");
  const Bytes image = test::make_bzimage(payload);
  const auto loaded = load(image);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->boot_vcpu.rip, MiB + 0x200);
  EXPECT_EQ(loaded->boot_vcpu.efer, 0x500U);
  EXPECT_EQ(loaded->boot_vcpu.gpr[kRsi], layout::kZeroPage.raw());
  // It unpacks to pref_address, init_size bytes: nothing else may be there.
  EXPECT_EQ(loaded->kernel, (GpaRange{Gpa{MiB}, 0x180'0000 - MiB}));
  const Bytes code(image.begin() + test::kTestSetupBytes, image.end());
  EXPECT_EQ(test::read_guest(*memory_, Gpa{MiB}, code.size()), code);
}

TEST_F(LinuxBootTest, UnknownPackingWithout64BitEntry_Fails) {
  const Bytes payload = test::bytes_of_text("BZh91AY&SY and so on");
  const auto loaded = load(test::make_bzimage(payload, {.xloadflags = 0}));
  EXPECT_TRUE(
      contains(test::error_of(loaded), "vmlinuz: the kernel is packed with a method (bzip2)"))
      << test::error_of(loaded);
}

TEST_F(LinuxBootTest, AbsurdHeaders_Fail) {
  const Bytes payload = test::bytes_of_text("BZh91AY&SY and so on");
  EXPECT_FALSE(load(test::make_bzimage(payload, {.init_size = 0xffff'ffff})));
  EXPECT_FALSE(load(test::make_bzimage(payload, {.pref_address = ~uint64_t{0}})));
  EXPECT_FALSE(load(test::make_bzimage(payload, {.pref_address = 0})));
  EXPECT_TRUE(contains(test::error_of(load(test::make_bzimage(payload, {.version = 0x207}))),
                       "boot protocol 2.07"));
  Bytes far_payload = test::make_bzimage(payload);
  test::put(far_payload, setup::kPayloadOffset, uint32_t{0xffff'fff0});
  EXPECT_TRUE(contains(test::error_of(load(far_payload)), "truncated"));
  Bytes short_header = test::make_bzimage(payload);
  test::put(short_header, setup::kJumpLength, uint8_t{4});
  EXPECT_TRUE(contains(test::error_of(load(short_header)), "cut off"));
}

TEST_F(LinuxBootTest, TruncatedAnywhere_FailsWithName) {
  const Bytes image = test::make_bzimage(test::pack_gzip(test::linux_elf()));
  for (size_t size = 0; size < image.size(); size += size < 4096 ? 17 : 9973) {
    const auto loaded = load(Bytes(image.begin(), image.begin() + static_cast<long>(size)));
    EXPECT_TRUE(contains(test::error_of(loaded), "vmlinuz: ")) << size;
  }
}

TEST_F(LinuxBootTest, PayloadSegmentsOverlapping_Fail) {
  auto segments = test::linux_segments();
  segments[1].paddr = 0x100'1000;
  EXPECT_TRUE(
      contains(test::error_of(load(test::make_bzimage(test::make_elf64(0x100'0000, segments)))),
               "overlaps ELF segment 0"));
  segments[1].paddr = 0x7000;
  EXPECT_TRUE(
      contains(test::error_of(load(test::make_bzimage(test::make_elf64(0x100'0000, segments)))),
               "overlaps the "));
}

TEST_F(LinuxBootTest, PayloadEndsInsideSegment_Fails) {
  Bytes elf = test::make_elf64(0x100'0000, test::linux_segments());
  elf.resize(200'000);
  EXPECT_TRUE(contains(test::error_of(load(test::make_bzimage(test::pack_gzip(elf)))),
                       "the kernel inside is truncated"));
}

TEST_F(LinuxBootTest, Payload32Bit_EntersProtectedMode) {
  auto segments = test::linux_segments();
  const Bytes elf = test::make_elf32(0x100'0000, segments);
  const auto loaded = load(test::make_bzimage(test::pack_gzip(elf), {.xloadflags = 0}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->boot_vcpu.cr0, 0x11U);
  EXPECT_EQ(loaded->boot_vcpu.efer, 0U);
  EXPECT_EQ(loaded->boot_vcpu.segments[kCs], (Segment{0, 0xffff'ffff, 0xc09b, 0x10}));
  EXPECT_EQ(loaded->boot_vcpu.gpr[kRsi], layout::kZeroPage.raw());
}

TEST_F(LinuxBootTest, VmlinuxWithLinuxNote_Takes64BitEntry) {
  const auto loaded = load(test::linux_elf());
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kind, KernelKind::Elf64);
  expect_segments(*memory_);
  expect_64bit_entry(*memory_, loaded->boot_vcpu);
  EXPECT_EQ(zero_page<uint8_t>(0x210), 0xff);
  EXPECT_EQ(zero_page<uint32_t>(0x202), 0x53726448U);
}

TEST_F(LinuxBootTest, ExtractVmlinux_GivesThePayload) {
  const Bytes elf = test::linux_elf();
  const Bytes image = test::make_bzimage(test::with_size(test::pack_xz(elf), elf));
  const auto vmlinux = extract_vmlinux(image, "vmlinuz", 64 * MiB);
  ASSERT_TRUE(vmlinux);
  EXPECT_TRUE(*vmlinux == elf);
  EXPECT_FALSE(extract_vmlinux(image, "vmlinuz", elf.size() - 1));
}

}  // namespace
}  // namespace trapeze::boot
