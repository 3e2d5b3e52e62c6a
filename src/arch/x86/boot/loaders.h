// The loaders behind boot.h, one per protocol, and what they share.
#pragma once

#include <optional>

#include "arch/x86/boot/boot.h"
#include "arch/x86/boot/placement.h"

namespace trapeze::boot {

using ImageBytes = std::span<const std::byte>;

Result<LoadedKernel> load_bzimage(ImageBytes image, const BootConfig& config, GuestMemory& memory);
Result<LoadedKernel> load_elf64(ImageBytes image, const BootConfig& config, GuestMemory& memory);
Result<LoadedKernel> load_pvh(ImageBytes image, const BootConfig& config, GuestMemory& memory);
Result<LoadedKernel> load_multiboot(ImageBytes image, const BootConfig& config,
                                    GuestMemory& memory);

// Puts `text` and a NUL to layout::kCommandLine. Longer than `max_bytes` (without the NUL) fails.
Result<void> write_command_line(Placement& placement, const BootConfig& config,
                                std::string_view text, uint64_t max_bytes, GuestMemory& memory);

// Puts the initial RAM disk as high as possible below `limit`; size 0 when there is none.
Result<GpaRange> place_initrd_high(Placement& placement, const BootConfig& config, uint64_t limit,
                                   GuestMemory& memory);
// The same right behind the kernel, where boot loaders put modules; else anywhere above 1 MiB.
Result<GpaRange> place_initrd_low(Placement& placement, const BootConfig& config, GpaRange kernel,
                                  GuestMemory& memory);

// physical_entry(), or an Error.
Result<Gpa> require_entry(const ElfImage& elf, std::string_view name);

// The multiboot 1 header (specification 3.1.1).
struct MultibootHeader {
  uint64_t file_offset = 0;
  uint32_t flags = 0;
  // Valid with kMultibootHasAddresses.
  uint32_t header_addr = 0;
  uint32_t load_addr = 0;
  uint32_t load_end_addr = 0;
  uint32_t bss_end_addr = 0;
  uint32_t entry_addr = 0;
};
inline constexpr uint32_t kMultibootHasAddresses = 1U << 16;
std::optional<MultibootHeader> find_multiboot_header(ImageBytes image);

}  // namespace trapeze::boot
