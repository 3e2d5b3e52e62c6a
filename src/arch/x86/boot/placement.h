// Placement: the book of who uses which guest physical addresses during boot. Kernel segments,
// boot structures and the initial RAM disk all claim their range, so that whatever an image asks
// for, nothing overwrites anything else and nothing lies outside RAM.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/boot/elf.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace trapeze::boot {

class Placement {
 public:
  // `kernel_name` stands in the errors. The range from the EBDA to 1 MiB is claimed from the start:
  // ACPI tables live there.
  Placement(const GuestMemory& memory, std::string_view kernel_name);

  // Fails when a byte of the range is not RAM, or is claimed already.
  Result<void> claim(GpaRange range, std::string_view what);
  Result<void> claim_segments(const ElfImage& elf);

  // Free, page-aligned RAM, below the hole: the highest that ends at or below `limit`, or the
  // lowest that starts at or above `from`.
  std::optional<Gpa> find_highest(uint64_t limit, uint64_t size) const;
  std::optional<Gpa> find_lowest(Gpa from, uint64_t size) const;

 private:
  struct Claim {
    GpaRange range;
    std::string what;
  };
  const Claim* overlapping(const GpaRange& range) const;

  const GuestMemory& memory_;
  std::string kernel_name_;
  std::vector<Claim> claims_;
};

// Copies to RAM, which `gpa` and `bytes` have been checked to lie in. Pages of zeros are left out
// where RAM is zero already: a third of a Linux kernel is zeros (BSS, gaps between its parts), and
// a page that was never touched costs neither time nor memory.
void copy_to_ram(GuestMemory& memory, Gpa gpa, std::span<const std::byte> bytes, bool ram_is_zero);

// Copies every segment from the file and clears its BSS unless RAM is known to be zero. The
// segments have been claimed and lie within the file.
void load_segments(const ElfImage& elf, std::span<const std::byte> file, bool ram_is_zero,
                   GuestMemory& memory);
void clear_bss(const ElfImage& elf, GuestMemory& memory);

}  // namespace trapeze::boot
