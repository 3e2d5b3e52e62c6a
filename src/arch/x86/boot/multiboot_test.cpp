#include <gtest/gtest.h>

#include "arch/x86/boot/test_images.h"

namespace trapeze::boot {
namespace {

using test::Bytes;

void put_header(Bytes& image, size_t at, uint32_t flags) {
  const uint32_t magic = 0x1bad'b002;
  test::put(image, at, magic);
  test::put(image, at + 4, flags);
  test::put(image, at + 8, 0U - magic - flags);
}

struct Addresses {
  uint32_t header, load, load_end, bss_end, entry;
};

// 4096 bytes, the header at 0x40.
Bytes flat_image(const Addresses& addresses, uint32_t flags = 0x1'0000) {
  Bytes image = test::pattern(4096, 4);
  put_header(image, 0x40, flags);
  test::put(image, 0x4c, addresses);
  return image;
}

class MultibootTest : public testing::Test {
 protected:
  Result<LoadedKernel> load(const Bytes& image) { return load_kernel(image, config_, *memory_); }
  template <typename T>
  T info(uint64_t offset) const {
    return memory_->load<T>(Gpa{info_ + offset}).value();
  }
  std::string text_at(uint64_t gpa) const {
    std::string text;
    for (uint64_t at = gpa; text.size() < 4096; ++at) {
      const char next = memory_->load<char>(Gpa{at}).value();
      if (next == '\0') break;
      text.push_back(next);
    }
    return text;
  }
  // The vCPU starts in the handover code, which ends with MOV ECX, entry; JMP ECX.
  uint32_t entry_behind_handover(const VcpuState& state) const {
    constexpr uint64_t kPortWrites = 13;
    const uint64_t mov_ecx = state.rip + kPortWrites * 4 + 5;
    EXPECT_EQ(memory_->load<uint8_t>(Gpa{mov_ecx}), 0xb9);
    return memory_->load<uint32_t>(Gpa{mov_ecx + 1}).value();
  }
  std::string error_of(const Bytes& image) { return test::error_of(load(image)); }

  std::unique_ptr<GuestMemory> memory_ = test::make_memory(64 * MiB);
  BootConfig config_{.kernel_name = "tests/apic.flat",
                     .initrd_name = "env",
                     .cmdline = "one two",
                     .initrd = {},
                     .acpi_rsdp = Gpa{0xe0000}};
  uint64_t info_ = 0;
};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_F(MultibootTest, Elf32_StateAndInformationAreAsSpecified) {
  const Bytes initrd = test::bytes_of_text("NR_CPUS=4\n");
  config_.initrd = initrd;
  Bytes elf = test::make_elf32(0x40'00bc, {{0x40'0000, test::pattern(6000, 1), 12 * MiB, 0}});
  put_header(elf, 176, 0x3);
  const auto loaded = load(elf);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kind, KernelKind::Multiboot1);

  // 3.2 "Machine state".
  const VcpuState& state = loaded->boot_vcpu;
  EXPECT_EQ(entry_behind_handover(state), 0x40'00bcU);
  EXPECT_EQ(state.gpr[kRax], 0x2bad'b002U);
  EXPECT_EQ(state.cr0, 0x11U);
  EXPECT_EQ(state.rflags, 2U);
  EXPECT_EQ(state.segments[kCs], (Segment{0, 0xffff'ffff, 0xc09b, 0x10}));
  EXPECT_EQ(state.segments[kGs], (Segment{0, 0xffff'ffff, 0xc093, 0x18}));

  // 3.3 "Boot information format".
  info_ = state.gpr[kRbx];
  EXPECT_EQ(info<uint32_t>(0), 0x24dU);
  EXPECT_EQ(info<uint32_t>(4), 639U);
  EXPECT_EQ(info<uint32_t>(8), 63U * 1024);
  EXPECT_EQ(text_at(info<uint32_t>(16)), "tests/apic.flat one two");
  EXPECT_EQ(text_at(info<uint32_t>(64)), "trapeze");
  ASSERT_EQ(info<uint32_t>(20), 1U);
  const Gpa module{info<uint32_t>(24)};
  const auto start = memory_->load<uint32_t>(module).value();
  EXPECT_EQ(memory_->load<uint32_t>(module + 4), start + initrd.size());
  EXPECT_EQ(text_at(memory_->load<uint32_t>(module + 8).value()), "env");
  EXPECT_EQ(start % kPageSize, 0U);
  EXPECT_EQ(start, align_up(0x40'0000 + 6000 + 12 * MiB, kPageSize));
  EXPECT_EQ(test::read_guest(*memory_, Gpa{start}, initrd.size()), initrd);

  ASSERT_EQ(info<uint32_t>(44), 4U * 24);
  const Gpa map{info<uint32_t>(48)};
  EXPECT_EQ(memory_->load<uint32_t>(map), 20U);
  EXPECT_EQ(memory_->load<uint64_t>(map + 4), 0U);
  EXPECT_EQ(memory_->load<uint64_t>(map + 12), 0x9fc00U);
  EXPECT_EQ(memory_->load<uint32_t>(map + 20), 1U);
  EXPECT_EQ(memory_->load<uint64_t>(map + 2 * 24 + 4), MiB);
  EXPECT_EQ(memory_->load<uint32_t>(map + 3 * 24 + 20), 2U);
}

TEST_F(MultibootTest, RealModeImageAt32KiB_Loads) {
  config_.cmdline.clear();
  Bytes elf = test::make_elf32(0x8018, {{0x8000, test::pattern(16'000, 1), 8192, 0}});
  put_header(elf, 176, 0);
  const auto loaded = load(elf);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(entry_behind_handover(loaded->boot_vcpu), 0x8018U);
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x8000}, 16'000), test::pattern(16'000, 1));
  info_ = loaded->boot_vcpu.gpr[kRbx];
  EXPECT_EQ(text_at(info<uint32_t>(16)), "tests/apic.flat");
  EXPECT_EQ(info<uint32_t>(20), 0U);
}

TEST_F(MultibootTest, Elf64_Loads) {
  Bytes elf = test::make_elf64(0x10'0000, {{0x10'0000, test::pattern(100, 1), 0, 0}});
  put_header(elf, 1024, 0);
  const auto loaded = load(elf);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kind, KernelKind::Multiboot1);
  EXPECT_EQ(loaded->boot_vcpu.efer, 0U);
}

TEST_F(MultibootTest, FlatImage_AddressesAreHonoured) {
  config_.ram_is_zero = false;
  ASSERT_TRUE(memory_->fill(Gpa{0x10'0000}, std::byte{0xaa}, MiB));
  // The file is loaded from byte 0x40 - 0x20 on, 1000 bytes of it, with 500 bytes of BSS.
  const Bytes image =
      flat_image({0x10'0020, 0x10'0000, 0x10'0000 + 1000, 0x10'0000 + 1500, 0x10'0100});
  const auto loaded = load(image);
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(entry_behind_handover(loaded->boot_vcpu), 0x10'0100U);
  EXPECT_EQ(loaded->kernel, (GpaRange{Gpa{0x10'0000}, 1500}));
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x10'0000}, 1000),
            Bytes(image.begin() + 0x20, image.begin() + 0x20 + 1000));
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x10'0000 + 1000}, 500), Bytes(500));
  EXPECT_EQ(memory_->load<uint8_t>(Gpa{0x10'0000 + 1500}), 0xaa);
}

TEST_F(MultibootTest, FlatImageWithoutEnds_LoadsRestOfFile) {
  const auto loaded = load(flat_image({0x10'0040, 0x10'0000, 0, 0, 0x10'0000}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kernel, (GpaRange{Gpa{0x10'0000}, 4096}));
}

TEST_F(MultibootTest, FlatImageWithAbsurdAddresses_Fails) {
  EXPECT_TRUE(contains(error_of(flat_image({0x10'0000, 0x10'0020, 0, 0, 0x10'0020})),
                       "does not fit the header"));
  EXPECT_TRUE(contains(error_of(flat_image({0x10'0100, 0x10'0000, 0, 0, 0x10'0000})),
                       "does not fit the header"));
  EXPECT_TRUE(
      contains(error_of(flat_image({0x10'0040, 0x10'0000, 0x10'2000, 0, 0x10'0000})), "truncated"));
  EXPECT_TRUE(
      contains(error_of(flat_image({0x10'0040, 0x10'0000, 0xf'0000, 0, 0x10'0000})), "truncated"));
  EXPECT_TRUE(
      contains(error_of(flat_image({0x10'0040, 0x10'0000, 0, 0x10'0010, 0x10'0000})), "BSS ends"));
  EXPECT_TRUE(contains(error_of(flat_image({0x10'0040, 0x10'0000, 0, 0, 0x20'0000})),
                       "entry point 0x200000 lies outside"));
  EXPECT_TRUE(
      contains(error_of(flat_image({0xffff'f040, 0xffff'f000, 0, 0, 0xffff'f000})), "no RAM"));
  EXPECT_TRUE(contains(error_of(flat_image({0x6040, 0x6000, 0, 0, 0x6000})),
                       "overlaps the multiboot information"));
  EXPECT_TRUE(
      contains(error_of(flat_image({0x10'0040, 0x10'0000, 0, 0xf000'0000, 0x10'0000})), "no RAM"));
}

TEST_F(MultibootTest, UnknownRequirement_Fails) {
  EXPECT_TRUE(contains(error_of(flat_image({0x10'0040, 0x10'0000, 0, 0, 0x10'0000}, 0x1'0010)),
                       "unknown features (flags 0x10)"));
}

TEST_F(MultibootTest, WrongChecksum_IsNoHeader) {
  Bytes image = flat_image({0x10'0040, 0x10'0000, 0, 0, 0x10'0000});
  test::put(image, 0x48, uint32_t{1});
  EXPECT_TRUE(contains(error_of(image), "neither a Linux bzImage, an ELF file nor a multiboot"));
}

TEST_F(MultibootTest, HeaderBehindFirst8KiB_IsNoHeader) {
  Bytes elf = test::make_elf32(0x10'0000, {{0x10'0000, test::pattern(20'000, 1), 0, 0}});
  put_header(elf, 8192 - 8, 0);
  EXPECT_TRUE(contains(error_of(elf), "neither a PVH note nor a multiboot header"));
}

TEST_F(MultibootTest, ModuleDoesNotFitBehindKernel_SaysSo) {
  const Bytes initrd(60 * MiB);
  config_.initrd = initrd;
  Bytes elf = test::make_elf32(0x40'0000, {{0x40'0000, test::pattern(100, 1), 0, 0}});
  put_header(elf, 176, 0);
  EXPECT_TRUE(contains(error_of(elf), "env: the initial RAM disk of 60 MiB does not fit"));
}

}  // namespace
}  // namespace trapeze::boot
