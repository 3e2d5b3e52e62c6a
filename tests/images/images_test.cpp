// The test images are what they say: each is recognized and loads into a small machine.
#include <gtest/gtest.h>

#include "arch/x86/boot/boot.h"
#include "arch/x86/layout.h"
#include "base/file.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

struct Image {
  const char* name;
  KernelKind kind;
};

class TestImageTest : public testing::TestWithParam<Image> {};

TEST_P(TestImageTest, Image_IsRecognizedAndLoads) {
  BootConfig config;
  config.kernel_name = std::string(TRAPEZE_TEST_IMAGE_DIR "/") + GetParam().name + ".elf";
  const auto file = FileBytes::open(config.kernel_name, MiB);
  ASSERT_TRUE(file) << file.error().message;
  const auto ram = layout::ram_ranges(16 * MiB);
  const auto memory = GuestMemory::create(ram);
  ASSERT_TRUE(memory) << memory.error().message;
  const auto loaded = load_kernel(file->bytes(), config, **memory);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->kind, GetParam().kind);
  // Multiboot images start behind the code that hands over as firmware does (boot/handover.h).
  const GpaRange handover{layout::kPvhStartInfo, kPageSize};
  const Gpa start{loaded->boot_vcpu.rip};
  EXPECT_TRUE(loaded->kernel.contains(start) || handover.contains(start));
}

INSTANTIATE_TEST_SUITE_P(
    All, TestImageTest,
    testing::Values(Image{"hello", KernelKind::Multiboot1}, Image{"hello_pvh", KernelKind::ElfPvh},
                    Image{"hello64", KernelKind::Elf64}, Image{"hello16", KernelKind::Multiboot1},
                    Image{"tick", KernelKind::Multiboot1},
                    Image{"bootinfo", KernelKind::Multiboot1},
                    Image{"triple_fault", KernelKind::Multiboot1},
                    Image{"hang", KernelKind::Multiboot1}, Image{"spin", KernelKind::Multiboot1},
                    Image{"poweroff", KernelKind::Multiboot1},
                    Image{"reset", KernelKind::Multiboot1}, Image{"read_all", KernelKind::Elf64},
                    Image{"write_all", KernelKind::Multiboot1}),
    [](const testing::TestParamInfo<Image>& param) { return param.param.name; });

}  // namespace
}  // namespace trapeze::boot
