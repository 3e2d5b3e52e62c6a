#include "kit/kit.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/bytes.h"
#include "base/units.h"
#include "kit/cpio.h"
#include "kit/kernel_image.h"
#include "kit/kernel_module.h"
#include "kit/modules.h"
#include "kit/process.h"

namespace trapeze::kit {
namespace {

namespace fs = std::filesystem;

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = (fs::temp_directory_path() / "kit_test.XXXXXX").string();
    path_ = ::mkdtemp(path.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  void write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }

 private:
  fs::path path_;
};

TEST(Cpio, ArchiveWithEveryKind_IsReadByCpio) {
  CpioWriter writer;
  writer.add_directory("a");
  writer.add_file("a/file", 0640, bytes_of("hello\n"));
  writer.add_symlink("a/link", "file");
  const auto archive = std::move(writer).finish();
  EXPECT_EQ(archive.size() % 512, 0U);
  const TemporaryFolder folder;
  folder.write("archive", text_of(archive));
  const auto unpacked = run_process({"cpio", "-i", "--quiet", "-F", "archive"}, folder.path());
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  ASSERT_EQ(unpacked->exit_status, 0) << unpacked->err;
  std::ifstream file(folder.path() / "a/link");
  std::string line;
  std::getline(file, line);
  EXPECT_EQ(line, "hello");
  EXPECT_EQ(fs::status(folder.path() / "a/file").permissions(), static_cast<fs::perms>(0640));
}

// One segment behind the headers, of `used` bytes of ones and then zeros.
std::vector<std::byte> elf_with_segment(uint64_t used, uint64_t size) {
  std::vector<std::byte> file(kPageSize + size);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_offset = kPageSize;
  segment.p_filesz = size;
  segment.p_memsz = size + 100;
  store_le(std::span(file), 0, header);
  store_le(std::span(file), sizeof(header), segment);
  std::fill_n(file.begin() + static_cast<ptrdiff_t>(kPageSize), used, std::byte{1});
  return file;
}

Elf64_Phdr trimmed(std::vector<std::byte> file) {
  trim_trailing_zeros(file);
  return load_le<Elf64_Phdr>(std::span<const std::byte>(file), sizeof(Elf64_Ehdr));
}

TEST(KernelImage, ZerosAtTheEndOfASegment_AreNotInTheFile) {
  const auto segment = trimmed(elf_with_segment(kPageSize + 1, 10 * kPageSize));
  EXPECT_EQ(segment.p_filesz, 2 * kPageSize);
  EXPECT_EQ(segment.p_memsz, 10 * kPageSize + 100);
  EXPECT_EQ(trimmed(elf_with_segment(0, 3 * kPageSize)).p_filesz, 0U);
  EXPECT_EQ(trimmed(elf_with_segment(5'000, 5'001)).p_filesz, 5'001U);
}

TEST(KernelImage, FileThatIsNoSoundElf_IsLeftAlone) {
  auto reaches_beyond = elf_with_segment(1, 3 * kPageSize);
  reaches_beyond.resize(2 * kPageSize);
  EXPECT_EQ(trimmed(reaches_beyond).p_filesz, 3 * kPageSize);
  std::vector<std::byte> text(100, std::byte{'x'});
  trim_trailing_zeros(text);
  EXPECT_EQ(text, std::vector<std::byte>(100, std::byte{'x'}));
}

// A relocatable ELF file with .modinfo, .BTF and a section name table.
std::string make_module(std::string_view modinfo) {
  constexpr std::string_view kNames("\0.modinfo\0.BTF\0", 15);
  std::string image(sizeof(Elf64_Ehdr), '\0');
  const size_t modinfo_at = image.size();
  image += modinfo;
  const size_t names_at = image.size();
  image += kNames;
  image.resize((image.size() + 7) / 8 * 8);
  Elf64_Shdr sections[4] = {};
  sections[1].sh_name = 1;
  sections[1].sh_offset = modinfo_at;
  sections[1].sh_size = modinfo.size();
  sections[2].sh_name = 10;
  sections[2].sh_offset = modinfo_at;
  sections[2].sh_size = modinfo.size();
  sections[3].sh_offset = names_at;
  sections[3].sh_size = kNames.size();
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_type = ET_REL;
  header.e_shoff = image.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 4;
  header.e_shstrndx = 3;
  std::memcpy(image.data(), &header, sizeof(header));
  image.append(reinterpret_cast<const char*>(sections), sizeof(sections));
  return image;
}

constexpr std::string_view kModinfo("name=virtio_x\0depends=virtio,virtio_ring\0alias=a:b*\0", 52);

TEST(KernelModule, Modinfo_IsRead) {
  const std::string image = make_module(kModinfo);
  const auto info = read_module_info(bytes_of(image), "x.ko");
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->name, "virtio_x");
  EXPECT_EQ(info->depends, (std::vector<std::string>{"virtio", "virtio_ring"}));
  EXPECT_EQ(info->aliases, (std::vector<std::string>{"a:b*"}));
}

TEST(KernelModule, TruncatedAnywhere_IsRefusedWithoutHarm) {
  const std::string image = make_module(kModinfo);
  for (size_t size = 0; size < image.size(); ++size) {
    EXPECT_FALSE(read_module_info(bytes_of(image).first(size), "x.ko")) << size;
  }
}

TEST(KernelModule, Slimming_DropsSignatureAndBtf) {
  const std::string plain = make_module(kModinfo);
  std::string trailer(12, '\0');
  trailer[11] = 5;  // a signature of 5 bytes, big-endian
  const std::string image = plain + "abcde" + trailer + "~Module signature appended~\n";
  std::vector<std::byte> slim(bytes_of(image).begin(), bytes_of(image).end());
  ASSERT_TRUE(slim_module(slim, "x.ko"));
  EXPECT_EQ(slim.size(), plain.size());
  Elf64_Shdr btf;
  std::memcpy(&btf, slim.data() + plain.size() - 2 * sizeof(btf), sizeof(btf));
  EXPECT_EQ(btf.sh_size, 0U);
  EXPECT_TRUE(read_module_info(slim, "x.ko"));
}

TEST(KernelModule, SignatureLongerThanTheFile_IsRefused) {
  std::string trailer(12, '\0');
  trailer[8] = 1;  // 16 MiB
  const std::string image = make_module(kModinfo) + trailer + "~Module signature appended~\n";
  std::vector<std::byte> slim(bytes_of(image).begin(), bytes_of(image).end());
  EXPECT_FALSE(slim_module(slim, "x.ko"));
}

class ModuleTree : public testing::Test {
 protected:
  void add(const std::string& name, const std::string& depends) {
    fs::create_directories(folder_.path() / "kernel");
    const std::string modinfo =
        "name=" + name + std::string(1, '\0') + "depends=" + depends + std::string(1, '\0');
    folder_.write("kernel/" + name + ".ko", make_module(modinfo));
  }
  TemporaryFolder folder_;
};

TEST_F(ModuleTree, WhatAModuleNeeds_ComesFirst) {
  add("virtio", "");
  add("virtio_ring", "virtio");
  add("virtio_pci", "virtio_ring");
  add("virtio_console", "virtio,virtio_ring");
  add("unrelated", "");
  const auto set = collect_modules(folder_.path());
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(set->boot,
            (std::vector<std::string>{"kernel/virtio.ko", "kernel/virtio_ring.ko",
                                      "kernel/virtio_pci.ko", "kernel/virtio_console.ko"}));
  EXPECT_EQ(dependency_file(*set),
            "kernel/virtio.ko:\n"
            "kernel/virtio_ring.ko: kernel/virtio.ko\n"
            "kernel/virtio_pci.ko: kernel/virtio_ring.ko kernel/virtio.ko\n"
            "kernel/virtio_console.ko: kernel/virtio_ring.ko kernel/virtio.ko\n")
      << "busybox modprobe loads from the last to the first";
}

TEST_F(ModuleTree, BuiltInModules_AreNotNeeded) {
  add("virtio_console", "virtio");
  folder_.write("modules.builtin", "kernel/drivers/virtio/virtio.ko\nkernel/x/virtio_pci.ko\n");
  const auto set = collect_modules(folder_.path());
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(set->boot, (std::vector<std::string>{"kernel/virtio_console.ko"}));
}

TEST_F(ModuleTree, MissingBootModule_IsNamed) {
  add("virtio_pci", "");
  const auto set = collect_modules(folder_.path());
  ASSERT_FALSE(set);
  EXPECT_NE(set.error().message.find("virtio_console"), std::string::npos);
}

TEST_F(ModuleTree, DependencyCycle_IsRefused) {
  add("virtio_pci", "virtio_console");
  add("virtio_console", "virtio_pci");
  EXPECT_FALSE(collect_modules(folder_.path()));
}

TEST(Kit, FolderWithoutAKit_IsAnError) {
  const TemporaryFolder folder;
  EXPECT_FALSE(kit_exists(folder.path()));
  EXPECT_FALSE(open_kit(folder.path()));
}

TEST(Kit, Manifest_RoundTrips) {
  const TemporaryFolder folder;
  for (const char* name : {"vmlinux", "vmlinuz", "initrd"}) folder.write(name, "x");
  Kit kit;
  kit.directory = folder.path();
  kit.kernel = folder.path() / "vmlinux";
  kit.bzimage = folder.path() / "vmlinuz";
  kit.initrd = folder.path() / "initrd";
  kit.kernel_release = "6.1.0";
  kit.init_hash = init_hash();
  kit.is_pvm_kernel = false;
  ASSERT_TRUE(write_manifest(kit));
  const auto read = open_kit(folder.path());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->kernel_release, "6.1.0");
  EXPECT_EQ(read->kernel, kit.kernel);
  EXPECT_TRUE(read->is_current());
  EXPECT_EQ(read->is_pvm_kernel, false);
}

TEST(Kit, ManifestOfAnOlderBuild_DoesNotKnowAboutPvm) {
  const TemporaryFolder folder;
  for (const char* name : {"vmlinux", "vmlinuz", "initrd"}) folder.write(name, "x");
  folder.write("kit.json",
               R"({"format":1,"kernel":"vmlinux","bzimage":"vmlinuz","initrd":"initrd"})");
  const auto read = open_kit(folder.path());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->is_pvm_kernel, std::nullopt);
}

TEST(Kit, ManifestThatLeavesItsFolder_IsRefused) {
  const TemporaryFolder folder;
  folder.write("kit.json", R"({"format":1,"kernel":"../x","bzimage":"a","initrd":"b"})");
  EXPECT_FALSE(open_kit(folder.path()));
  folder.write("kit.json", "{broken");
  EXPECT_FALSE(open_kit(folder.path()));
  folder.write("kit.json", R"({"format":"one"})");
  EXPECT_FALSE(open_kit(folder.path()));
}

TEST(Kit, EmbeddedInit_IsAProgram) {
  ASSERT_GT(init_image().size(), 4U);
  EXPECT_EQ(std::memcmp(init_image().data(), ELFMAG, SELFMAG), 0);
}

TEST(Process, OutputAndStatus_AreSeparate) {
  const auto output = run_process({"sh", "-c", "echo out; echo err >&2; exit 3"});
  ASSERT_TRUE(output);
  EXPECT_EQ(output->exit_status, 3);
  EXPECT_EQ(output->out, "out\n");
  EXPECT_EQ(output->err, "err\n");
  EXPECT_FALSE(run_process({"/nonexistent/program"}));
}

TEST(Process, LastLines_TakesTheEnd) {
  EXPECT_EQ(last_lines("a\nb\nc\n", 2), "b\nc");
  EXPECT_EQ(last_lines("a\n", 5), "a");
  EXPECT_EQ(last_lines("\n\n", 2), "no message");
}

}  // namespace
}  // namespace trapeze::kit
