#include <gtest/gtest.h>

#include "arch/x86/boot/test_images.h"

namespace trapeze::boot {
namespace {

using test::Bytes;

class PvhTest : public testing::Test {
 protected:
  Result<LoadedKernel> load(const Bytes& image) { return load_kernel(image, config_, *memory_); }
  template <typename T>
  T info(uint64_t offset) const {
    return memory_->load<T>(layout::kPvhStartInfo + offset).value();
  }
  std::unique_ptr<GuestMemory> memory_ = test::make_memory(64 * MiB);
  BootConfig config_{.kernel_name = "unikernel",
                     .initrd_name = "initrd.img",
                     .cmdline = "a b",
                     .initrd = {},
                     .acpi_rsdp = Gpa{0xe0000}};
  const std::vector<test::TestSegment> segments_ = {{0x20'0000, test::pattern(5000, 1), 100, 0}};
};

// docs/misc/pvh.pandoc, "CPU state".
void expect_pvh_state(const VcpuState& state, uint64_t entry) {
  EXPECT_EQ(state.rip, entry);
  EXPECT_EQ(state.gpr[kRbx], layout::kPvhStartInfo.raw());
  EXPECT_EQ(state.cr0, 0x11U);  // PE, and ET which cannot be 0
  EXPECT_EQ(state.cr4, 0U);
  EXPECT_EQ(state.efer, 0U);
  EXPECT_EQ(state.rflags, 2U);
  EXPECT_EQ(state.segments[kCs], (Segment{0, 0xffff'ffff, 0xc09b, 0x10}));
  EXPECT_EQ(state.segments[kSs], (Segment{0, 0xffff'ffff, 0xc093, 0x18}));
  EXPECT_EQ(state.tr.limit, 0x67U);
  EXPECT_EQ(state.tr.base, 0U);
  EXPECT_EQ(state.tr.access, 0x8bU);
}

TEST_F(PvhTest, Elf64WithNote_StartsAtNote) {
  const Bytes initrd = test::pattern(9999, 2);
  config_.initrd = initrd;
  const auto loaded = load(test::make_elf64(0x20'0000, segments_, {test::pvh_note(0x20'0010)}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kind, KernelKind::ElfPvh);
  expect_pvh_state(loaded->boot_vcpu, 0x20'0010);
  EXPECT_EQ(test::read_guest(*memory_, Gpa{0x20'0000}, 5000), segments_[0].content);

  EXPECT_EQ(info<uint32_t>(0), 0x336ec578U);
  EXPECT_EQ(info<uint32_t>(4), 1U);
  EXPECT_EQ(info<uint32_t>(12), 1U);
  const Gpa module{info<uint64_t>(16)};
  EXPECT_EQ(memory_->load<uint64_t>(module), loaded->initrd.start.raw());
  EXPECT_EQ(memory_->load<uint64_t>(module + 8), initrd.size());
  EXPECT_TRUE(test::read_guest(*memory_, loaded->initrd.start, initrd.size()) == initrd);
  EXPECT_EQ(info<uint64_t>(24), layout::kCommandLine.raw());
  EXPECT_EQ(test::read_guest(*memory_, layout::kCommandLine, 4),
            test::bytes_of_text(std::string_view("a b\0", 4)));
  EXPECT_EQ(info<uint64_t>(32), 0xe0000U);
  EXPECT_EQ(info<uint32_t>(48), 4U);
  const Gpa map{info<uint64_t>(40)};
  EXPECT_EQ(memory_->load<uint64_t>(map), 0U);
  EXPECT_EQ(memory_->load<uint64_t>(map + 8), 0x9fc00U);
  EXPECT_EQ(memory_->load<uint32_t>(map + 16), 1U);
  EXPECT_EQ(memory_->load<uint64_t>(map + 2 * 24), MiB);
  EXPECT_EQ(memory_->load<uint64_t>(map + 2 * 24 + 8), 63 * MiB);
}

TEST_F(PvhTest, Elf32WithNote_StartsAtNote) {
  const auto loaded = load(test::make_elf32(0x20'0000, segments_, {test::pvh_note(0x20'0010)}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  expect_pvh_state(loaded->boot_vcpu, 0x20'0010);
  EXPECT_EQ(info<uint32_t>(12), 0U);  // no module
  EXPECT_EQ(info<uint64_t>(16), 0U);
}

TEST_F(PvhTest, EightByteNoteAfterOthers_IsFound) {
  Bytes value;
  test::put(value, 0, uint64_t{0x20'0020});
  const auto loaded = load(test::make_elf64(
      0x20'0000, segments_, {{"GNU", 3, test::pattern(21, 1)}, {"Xen", 18, value}}));
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  expect_pvh_state(loaded->boot_vcpu, 0x20'0020);
}

TEST_F(PvhTest, LinuxWithPreferPvh_TakesPvh) {
  config_.prefer_pvh = true;
  const auto loaded = load(test::linux_elf());
  ASSERT_TRUE(loaded) << test::error_of(loaded);
  EXPECT_EQ(loaded->kind, KernelKind::ElfPvh);
  EXPECT_EQ(loaded->boot_vcpu.rip, 0x100'0040U);
}

TEST_F(PvhTest, EntryOutsideOfSegments_Fails) {
  const auto loaded = load(test::make_elf64(0x20'0000, segments_, {test::pvh_note(0x50'0000)}));
  EXPECT_NE(test::error_of(loaded).find("PVH entry point 0x500000"), std::string::npos);
}

TEST_F(PvhTest, SegmentOnStartInfo_Fails) {
  const std::vector<test::TestSegment> low = {{0x6800, test::pattern(100, 1), 0, 0}};
  const auto loaded = load(test::make_elf64(0x6800, low, {test::pvh_note(0x6800)}));
  EXPECT_NE(test::error_of(loaded).find("overlaps the PVH start info"), std::string::npos)
      << test::error_of(loaded);
}

}  // namespace
}  // namespace trapeze::boot
