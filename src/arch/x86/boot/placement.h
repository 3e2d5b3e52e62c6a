// Placement: the book of who uses which guest physical addresses during boot. Kernel segments,
// boot structures and the initial RAM disk all claim their range, so that whatever an image asks
// for, nothing overwrites anything else and nothing lies outside RAM.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arch/x86/boot/elf.h"
#include "base/fd.h"
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

// A part of a file: its bytes, and the file that they can be mapped from (nullptr: only copied).
struct FilePart {
  std::span<const std::byte> bytes;
  const Fd* file = nullptr;
  uint64_t offset = 0;  // of bytes[0] in `file`
};
// As copy_to_ram(), but whole pages are mapped where they can be. Parts of pages at either end are
// copied, so that what lies beside the part in the file does not come with it.
void put_in_ram(GuestMemory& memory, Gpa gpa, const FilePart& part, bool ram_is_zero);

// Puts every segment of the image to its place and clears its BSS unless RAM is known to be zero.
// The segments have been claimed and lie within the image.
void load_segments(const ElfImage& elf, const FilePart& image, bool ram_is_zero,
                   GuestMemory& memory);
void clear_bss(const ElfImage& elf, GuestMemory& memory);

}  // namespace trapeze::boot
