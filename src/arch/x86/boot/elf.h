// Reads ELF headers of kernels: class, entry, PT_LOAD segments and the notes that say how the
// kernel wants to be started. Hostile bytes in, checked numbers out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "memory/guest_addr.h"

namespace trapeze::boot {

struct FileExtent {
  uint64_t offset = 0;
  uint64_t size = 0;  // offset + size does not wrap
};

struct ElfSegment {
  FileExtent file;
  GpaRange memory;  // by p_paddr; at least file.size bytes, the rest is BSS
  uint64_t vaddr = 0;
};

struct ElfImage {
  bool is_64bit = false;
  uint64_t entry = 0;                // e_entry as it stands
  std::vector<ElfSegment> segments;  // PT_LOAD with a size, in file order; at least one
  std::vector<FileExtent> notes;     // PT_NOTE
  uint64_t note_alignment = 4;
  // From the first to the last byte of all segments.
  GpaRange extent() const;
};

bool looks_like_elf(std::span<const std::byte> bytes);

// `head` must hold the ELF header and the program headers; segments may lie beyond it (the rest of
// a kernel that is still being decompressed).
Result<ElfImage> parse_elf(std::span<const std::byte> head, std::string_view name);

// Every segment lies within a file of that many bytes.
Result<void> check_segments_in_file(const ElfImage& elf, uint64_t file_bytes,
                                    std::string_view name);

// e_entry as a physical address: Linux writes one there, others the virtual one.
std::optional<Gpa> physical_entry(const ElfImage& elf);
bool is_in_segment(const ElfImage& elf, Gpa address);

struct KernelNotes {
  std::optional<Gpa> pvh_entry;  // XEN_ELFNOTE_PHYS32_ENTRY
  bool is_linux = false;
};
KernelNotes read_kernel_notes(const ElfImage& elf, std::span<const std::byte> file);

}  // namespace trapeze::boot
