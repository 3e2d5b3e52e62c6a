// Detection, bad ELF files, and a stock kernel when there is one.
#include "arch/x86/boot/boot.h"

#include <glob.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "arch/x86/boot/elf.h"
#include "arch/x86/boot/pvm_kernel.h"
#include "arch/x86/boot/test_images.h"
#include "base/file.h"

namespace trapeze::boot {
namespace {

using test::Bytes;

std::string detect_error(const Bytes& image) {
  const auto kind = detect(image, "some.file");
  return kind ? std::string(name_of(*kind)) : kind.error().message;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(DetectTest, OtherFiles_AreNamedWithReason) {
  EXPECT_EQ(detect_error({}), "some.file: the kernel file is empty");
  EXPECT_EQ(detect_error(test::bytes_of_text("#!/bin/sh\n")),
            "some.file: neither a Linux bzImage, an ELF file nor a multiboot image: starts with "
            "23 21 2f 62 69 6e 2f 73");
  EXPECT_EQ(detect_error(test::pack_gzip(test::pattern(100, 1))),
            "some.file: a gzip file, not a kernel: unpack it first");
  EXPECT_TRUE(contains(detect_error(test::bytes_of_text("\x7f"
                                                        "ELF")),
                       "too short"));
  Bytes arm = test::linux_elf();
  test::put(arm, offsetof(Elf64_Ehdr, e_machine), uint16_t{183});
  EXPECT_TRUE(contains(detect_error(arm), "ELF for machine 183"));
  Bytes multiboot2 = test::make_elf32(0x10'0000, {{0x10'0000, test::pattern(9000, 1), 0, 0}});
  test::put(multiboot2, 4096, uint32_t{0xe852'50d6});
  EXPECT_TRUE(contains(detect_error(multiboot2), "multiboot 2"));
}

TEST(DetectTest, KernelsWithSeveralEntries_TakeTheShortestWay) {
  const std::vector<test::TestSegment> segments = {{0x10'0000, test::pattern(100, 1), 0, 0}};
  const Bytes plain = test::make_elf64(0x10'0000, segments);
  const Bytes pvh = test::make_elf64(0x10'0000, segments, {test::pvh_note(0x10'0000)});
  EXPECT_EQ(*detect(plain, "k"), KernelKind::Elf64);
  EXPECT_EQ(*detect(pvh, "k"), KernelKind::ElfPvh);
  EXPECT_EQ(*detect(test::linux_elf(), "k"), KernelKind::Elf64);
  EXPECT_EQ(*detect(test::linux_elf(), "k", true), KernelKind::ElfPvh);
  EXPECT_EQ(*detect(test::make_bzimage(plain), "k"), KernelKind::BzImage);
}

class BadElfTest : public testing::Test {
 protected:
  std::string error_of(const Bytes& image, uint64_t ram_bytes = 64 * MiB) {
    auto memory = test::make_memory(ram_bytes);
    BootConfig config;
    config.kernel_name = "vmlinux";
    return test::error_of(load_kernel(image, config, *memory));
  }
  static Bytes with_phdr(size_t index, size_t field, uint64_t value) {
    Bytes elf = test::linux_elf();
    test::put(elf, sizeof(Elf64_Ehdr) + index * sizeof(Elf64_Phdr) + field, value);
    return elf;
  }
};

TEST_F(BadElfTest, AbsurdSegments_Fail) {
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_filesz), ~uint64_t{0})),
                       "wraps around"));
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_filesz), 1 << 30)),
                       "but only 0x493e0 in memory"));
  EXPECT_TRUE(
      contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_offset), 1 << 30)), "truncated"));
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_memsz), ~uint64_t{0})),
                       "wrap around the address space"));
  EXPECT_TRUE(
      contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_memsz), uint64_t{1} << 40)), "no RAM"));
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_paddr), 0xffff'ffff'ff00'0000)),
                       "no RAM"));
  EXPECT_TRUE(
      contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_paddr), 0xe000'0000)), "no RAM"));
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_paddr), 0xf'0000)),
                       "overlaps the BIOS area"));
  EXPECT_TRUE(contains(error_of(with_phdr(0, offsetof(Elf64_Phdr, p_paddr), 0x9000)),
                       "overlaps the boot page tables"));
  EXPECT_TRUE(contains(error_of(with_phdr(1, offsetof(Elf64_Phdr, p_paddr), 0x100'0000)),
                       "overlaps ELF segment 0"));
}

TEST_F(BadElfTest, SegmentAcrossTheHole_Fails) {
  Bytes elf = with_phdr(1, offsetof(Elf64_Phdr, p_memsz), uint64_t{4} << 30);
  EXPECT_TRUE(contains(error_of(elf, 6 * GiB), "no RAM"));
}

TEST_F(BadElfTest, AbsurdHeaders_Fail) {
  Bytes elf = test::linux_elf();
  test::put(elf, offsetof(Elf64_Ehdr, e_phnum), uint16_t{0xffff});
  EXPECT_TRUE(contains(error_of(elf), "65535 ELF program headers"));
  test::put(elf, offsetof(Elf64_Ehdr, e_phnum), uint16_t{0});
  EXPECT_TRUE(contains(error_of(elf), "without program headers"));
  elf = test::linux_elf();
  test::put(elf, offsetof(Elf64_Ehdr, e_phoff), ~uint64_t{0} - 10);
  EXPECT_TRUE(contains(error_of(elf), "lie outside the file"));
  elf = test::linux_elf();
  test::put(elf, offsetof(Elf64_Ehdr, e_entry), uint64_t{0x4000'0000});
  EXPECT_TRUE(contains(error_of(elf), "entry point 0x40000000 lies in no segment"));
  elf = test::linux_elf();
  test::put(elf, offsetof(Elf64_Ehdr, e_type), uint16_t{ET_REL});
  EXPECT_TRUE(contains(error_of(elf), "ELF type 1"));
}

TEST_F(BadElfTest, VirtualEntry_IsTranslated) {
  Bytes elf = test::linux_elf();
  test::put(elf, offsetof(Elf64_Ehdr, e_entry), uint64_t{0xffff'ffff'8100'0123});
  auto memory = test::make_memory(64 * MiB);
  const auto loaded = load_kernel(elf, {}, *memory);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->boot_vcpu.rip, 0x100'0123U);
}

TEST_F(BadElfTest, TruncatedAnywhere_FailsWithName) {
  const Bytes whole = test::make_elf64(0x100'0000, test::linux_segments());
  for (size_t size = 0; size < 4096 + 300'000; size += size < 4096 ? 7 : 9973) {
    const auto error = error_of(Bytes(whole.begin(), whole.begin() + static_cast<long>(size)));
    EXPECT_TRUE(contains(error, "vmlinux: ")) << size;
  }
}

TEST_F(BadElfTest, CommandLineTooLong_Fails) {
  auto memory = test::make_memory(64 * MiB);
  BootConfig config;
  config.kernel_name = "vmlinux";
  config.cmdline = std::string(2048, 'a');
  const auto loaded = load_kernel(test::linux_elf(), config, *memory);
  EXPECT_TRUE(contains(test::error_of(loaded), "2048 bytes, this kernel takes at most 2047"));
}

TEST_F(BadElfTest, TinyRam_Fails) {
  EXPECT_TRUE(contains(error_of(test::linux_elf(), 4096), "give it more than"));
}

// The path of a stock kernel: TRAPEZE_TEST_KERNEL, or what `cmake --build . --target test_kernel`
// has unpacked.
std::string stock_kernel() {
  if (const char* path = std::getenv("TRAPEZE_TEST_KERNEL")) return path;
  glob_t found{};
  std::string path;
  if (::glob(TRAPEZE_TEST_KERNEL_GLOB, 0, nullptr, &found) == 0) path = found.gl_pathv[0];
  ::globfree(&found);
  return path;
}

TEST(StockKernelTest, BzImage_SegmentsAndEntryAreThoseOfItsVmlinux) {
  const std::string path = stock_kernel();
  if (path.empty()) {
    GTEST_SKIP() << "no kernel: set TRAPEZE_TEST_KERNEL or build the target test_kernel";
  }
  const auto file = FileBytes::open(path, GiB);
  ASSERT_TRUE(file) << file.error().message;
  auto memory = test::make_memory(256 * MiB);
  BootConfig config;
  config.kernel_name = path;
  config.cmdline = "console=ttyS0";
  const auto loaded = load_kernel(file->bytes(), config, *memory);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  std::printf("%s\n", loaded->how.c_str());

  const auto vmlinux = extract_vmlinux(file->bytes(), path, GiB);
  ASSERT_TRUE(vmlinux) << vmlinux.error().message;
  const auto elf = parse_elf(*vmlinux, path);
  ASSERT_TRUE(elf) << elf.error().message;
  EXPECT_TRUE(elf->is_64bit);
  EXPECT_EQ(loaded->boot_vcpu.rip, elf->entry);
  EXPECT_EQ(loaded->kernel, elf->extent());
  EXPECT_EQ(loaded->kernel.start, Gpa{0x100'0000});
  ASSERT_GE(elf->segments.size(), 3U);
  for (const ElfSegment& segment : elf->segments) {
    const auto from = vmlinux->begin() + static_cast<long>(segment.file.offset);
    EXPECT_TRUE(test::read_guest(*memory, segment.memory.start, segment.file.size) ==
                Bytes(from, from + static_cast<long>(segment.file.size)));
  }
  // As a bare vmlinux it is recognized, and goes to the same place.
  EXPECT_EQ(*detect(*vmlinux, path), KernelKind::Elf64);
  auto second = test::make_memory(256 * MiB);
  const auto direct = load_kernel(*vmlinux, config, *second);
  ASSERT_TRUE(direct) << test::error_of(direct);
  EXPECT_EQ(direct->boot_vcpu, loaded->boot_vcpu);
}

TEST(PvmKernel, IsKnownByItsSyntheticCpuid) {
  std::vector<std::byte> image(10'000, std::byte{0x0f});
  EXPECT_FALSE(has_pvm_cpuid(image));
  const uint8_t bytes[] = {0x0f, 0x01, 0x3c, 0x25, 0x50, 0x56, 0x4d, 0xff, 0x0f, 0xa2};
  for (size_t i = 0; i < sizeof(bytes); ++i) image[9'990 + i] = std::byte{bytes[i]};
  EXPECT_TRUE(has_pvm_cpuid(image));
  EXPECT_FALSE(has_pvm_cpuid(std::span(image).first(9'999)));
  EXPECT_FALSE(has_pvm_cpuid({}));
}

}  // namespace
}  // namespace trapeze::boot
