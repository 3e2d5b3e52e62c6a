#include "arch/x86/boot/boot.h"

#include <algorithm>
#include <cstring>

#include "arch/x86/boot/decompress.h"
#include "arch/x86/boot/elf.h"
#include "arch/x86/boot/loaders.h"
#include "arch/x86/boot/setup_header.h"
#include "arch/x86/layout.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

std::string first_bytes(ImageBytes image) {
  std::string text;
  for (const std::byte byte : image.first(std::min<size_t>(image.size(), 8))) {
    text += fmt::format("{}{:02x}", text.empty() ? "" : " ", static_cast<unsigned>(byte));
  }
  return text;
}

bool has_multiboot2_header(ImageBytes image) {
  // Multiboot 2 specification 3.1: 8-byte aligned within the first 32 KiB.
  constexpr uint32_t kMagic = 0xe852'50d6;
  const size_t end = std::min<size_t>(image.size(), 32 * KiB);
  for (size_t at = 0; at + sizeof(kMagic) <= end; at += 8) {
    if (load_le<uint32_t>(image, at) == kMagic) return true;
  }
  return false;
}

Result<KernelKind> detect_elf(ImageBytes image, std::string_view name, bool prefer_pvh) {
  const ElfImage elf = TRY(parse_elf(image, name));
  const KernelNotes notes = read_kernel_notes(elf, image);
  if (prefer_pvh && notes.pvh_entry) return KernelKind::ElfPvh;
  // Multiboot before PVH: images made for test benches are written for loaders with that order.
  if (find_multiboot_header(image)) return KernelKind::Multiboot1;
  // Linux has a PVH entry too, which only leads to the 64-bit one by a detour.
  if (elf.is_64bit && notes.is_linux) return KernelKind::Elf64;
  if (notes.pvh_entry) return KernelKind::ElfPvh;
  if (has_multiboot2_header(image)) {
    return fail("{}: needs a multiboot 2 loader; supported are Linux, PVH and multiboot 1", name);
  }
  if (elf.is_64bit) return KernelKind::Elf64;
  return fail(
      "{}: a 32-bit ELF file with neither a PVH note nor a multiboot header: do not know "
      "how to start it",
      name);
}

}  // namespace

std::string_view name_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::BzImage:
      return "Linux bzImage";
    case KernelKind::Elf64:
      return "64-bit ELF kernel";
    case KernelKind::ElfPvh:
      return "ELF kernel with PVH entry";
    case KernelKind::Multiboot1:
      return "multiboot 1 image";
  }
  return "unknown";
}

Result<KernelKind> detect(ImageBytes image, std::string_view name, bool prefer_pvh) {
  if (image.empty()) return fail("{}: the kernel file is empty", name);
  if (looks_like_bzimage(image)) return KernelKind::BzImage;
  if (looks_like_elf(image)) return detect_elf(image, name, prefer_pvh);
  if (const auto header = find_multiboot_header(image)) {
    if ((header->flags & kMultibootHasAddresses) != 0) return KernelKind::Multiboot1;
    return fail("{}: a multiboot header without load addresses, in a file that is not ELF", name);
  }
  const Compression compression = detect_compression(image);
  if (compression != Compression::Unknown) {
    return fail("{}: a {} file, not a kernel: unpack it first", name, name_of(compression));
  }
  return fail("{}: neither a Linux bzImage, an ELF file nor a multiboot image: starts with {}",
              name, first_bytes(image));
}

Result<LoadedKernel> load_kernel(ImageBytes image, const BootConfig& config, GuestMemory& memory) {
  const KernelKind kind = TRY(detect(image, config.kernel_name, config.prefer_pvh));
  switch (kind) {
    case KernelKind::BzImage:
      return load_bzimage(image, config, memory);
    case KernelKind::Elf64:
      return load_elf64(image, config, memory);
    case KernelKind::ElfPvh:
      return load_pvh(image, config, memory);
    case KernelKind::Multiboot1:
      return load_multiboot(image, config, memory);
  }
  return fail("{}: unknown kind of kernel", config.kernel_name);
}

Result<void> write_command_line(Placement& placement, const BootConfig& config,
                                std::string_view text, uint64_t max_bytes, GuestMemory& memory) {
  const uint64_t limit = std::min(max_bytes, layout::kCommandLineMaxBytes - 1);
  if (text.size() > limit) {
    return fail("{}: the kernel command line has {} bytes, this kernel takes at most {}",
                config.kernel_name, text.size(), limit);
  }
  if (text.find('\0') != std::string_view::npos) {
    return fail("the kernel command line contains a NUL byte");
  }
  TRY(placement.claim({layout::kCommandLine, text.size() + 1}, "the command line"));
  std::string with_nul(text);
  const bool in_ram = memory.write(layout::kCommandLine,
                                   std::as_bytes(std::span(with_nul.c_str(), text.size() + 1)));
  CHECK(in_ram);
  return {};
}

namespace {

uint64_t initrd_bytes(const BootConfig& config) {
  if (config.initrd_overlay.empty()) return config.initrd.size();
  return align_up(config.initrd.size(), 4) + config.initrd_overlay.size();
}

Result<GpaRange> write_initrd(Placement& placement, const BootConfig& config,
                              std::optional<Gpa> place, GuestMemory& memory) {
  const uint64_t size = initrd_bytes(config);
  if (!place) {
    return fail(
        "{}: the initial RAM disk of {} MiB does not fit beside the kernel into the {} MiB "
        "of memory: give the virtual machine more",
        config.initrd_name, align_up(size, MiB) / MiB, memory.size_bytes() / MiB);
  }
  TRY(placement.claim({*place, size}, "the initial RAM disk"));
  put_in_ram(memory, *place, {config.initrd, config.initrd_file}, config.ram_is_zero);
  const Gpa end = *place + config.initrd.size();
  const Gpa overlay = *place + (size - config.initrd_overlay.size());
  const bool in_ram =
      memory.fill(end, std::byte{0}, overlay - end) && memory.write(overlay, config.initrd_overlay);
  CHECK(in_ram);
  return GpaRange{*place, size};
}

}  // namespace

Result<GpaRange> place_initrd_high(Placement& placement, const BootConfig& config, uint64_t limit,
                                   GuestMemory& memory) {
  if (initrd_bytes(config) == 0) return GpaRange{};
  const auto place = placement.find_highest(limit, initrd_bytes(config));
  return write_initrd(placement, config, place, memory);
}

Result<GpaRange> place_initrd_low(Placement& placement, const BootConfig& config, GpaRange kernel,
                                  GuestMemory& memory) {
  if (initrd_bytes(config) == 0) return GpaRange{};
  auto place = placement.find_lowest(std::max(kernel.end(), Gpa{MiB}), initrd_bytes(config));
  if (!place) place = placement.find_lowest(Gpa{MiB}, initrd_bytes(config));
  return write_initrd(placement, config, place, memory);
}

Result<Gpa> require_entry(const ElfImage& elf, std::string_view name) {
  const auto entry = physical_entry(elf);
  if (!entry) return fail("{}: ELF entry point {:#x} lies in no segment", name, elf.entry);
  return *entry;
}

}  // namespace trapeze::boot
