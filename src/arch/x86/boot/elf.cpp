#include "arch/x86/boot/elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

// A kernel has about five program headers. More than this is nonsense, and costs time to check.
constexpr unsigned kMaxProgramHeaders = 128;

constexpr uint32_t kXenNoteGuestOs = 6;       // XEN_ELFNOTE_GUEST_OS
constexpr uint32_t kXenNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

Result<void> add_program_header(ElfImage& elf, uint32_t type, FileExtent file, uint64_t vaddr,
                                uint64_t paddr, uint64_t memory_bytes, uint64_t alignment,
                                std::string_view name, unsigned index) {
  if (type != PT_LOAD && type != PT_NOTE) return {};
  if (file.size > ~uint64_t{0} - file.offset) {
    return fail("{}: ELF program header {}: file range {:#x} + {:#x} wraps around", name, index,
                file.offset, file.size);
  }
  if (type == PT_NOTE) {
    elf.notes.push_back(file);
    // gABI: notes of a segment with p_align 8 are padded to 8 bytes, all others to 4.
    if (alignment == 8) elf.note_alignment = 8;
    return {};
  }
  if (memory_bytes == 0) return {};
  const auto memory = GpaRange::create(Gpa{paddr}, memory_bytes);
  if (!memory) {
    return fail("{}: ELF segment {}: {:#x} bytes at {:#x} wrap around the address space", name,
                index, memory_bytes, paddr);
  }
  if (file.size > memory_bytes) {
    return fail("{}: ELF segment {}: {:#x} bytes in the file but only {:#x} in memory", name, index,
                file.size, memory_bytes);
  }
  elf.segments.push_back({file, *memory, vaddr});
  return {};
}

template <typename Ehdr, typename Phdr>
Result<ElfImage> parse_class(std::span<const std::byte> head, std::string_view name) {
  if (head.size() < sizeof(Ehdr)) {
    return fail("{}: too short for an ELF header ({} bytes)", name, head.size());
  }
  const auto header = load_le<Ehdr>(head, 0);
  if (header.e_machine != EM_386 && header.e_machine != EM_X86_64) {
    return fail("{}: ELF for machine {}, but an x86 kernel has 3 (i386) or 62 (x86-64)", name,
                header.e_machine);
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return fail("{}: ELF type {} cannot be started (an executable has 2, a relocatable one 3)",
                name, header.e_type);
  }
  if (header.e_phnum == 0) return fail("{}: ELF file without program headers", name);
  if (header.e_phnum > kMaxProgramHeaders || header.e_phentsize != sizeof(Phdr)) {
    return fail("{}: {} ELF program headers of {} bytes each make no sense", name, header.e_phnum,
                header.e_phentsize);
  }
  if (!fits(head.size(), header.e_phoff, sizeof(Phdr) * header.e_phnum)) {
    return fail("{}: ELF program headers at {:#x} lie outside the file or far behind its start",
                name, uint64_t{header.e_phoff});
  }
  ElfImage elf;
  elf.is_64bit = sizeof(Ehdr) == sizeof(Elf64_Ehdr);
  elf.entry = header.e_entry;
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    const auto segment = load_le<Phdr>(head, header.e_phoff + i * sizeof(Phdr));
    TRY(add_program_header(elf, segment.p_type, {segment.p_offset, segment.p_filesz},
                           segment.p_vaddr, segment.p_paddr, segment.p_memsz, segment.p_align, name,
                           i));
  }
  if (elf.segments.empty()) return fail("{}: ELF file with nothing to load (no PT_LOAD)", name);
  return elf;
}

}  // namespace

GpaRange ElfImage::extent() const {
  Gpa start = segments.front().memory.start;
  Gpa end = segments.front().memory.end();
  for (const ElfSegment& segment : segments) {
    start = std::min(start, segment.memory.start);
    end = std::max(end, segment.memory.end());
  }
  return {start, end - start};
}

bool looks_like_elf(std::span<const std::byte> bytes) {
  return bytes.size() >= SELFMAG && std::memcmp(bytes.data(), ELFMAG, SELFMAG) == 0;
}

Result<ElfImage> parse_elf(std::span<const std::byte> head, std::string_view name) {
  if (!looks_like_elf(head)) return fail("{}: not an ELF file", name);
  if (head.size() < EI_NIDENT) {
    return fail("{}: too short for an ELF header ({} bytes)", name, head.size());
  }
  const auto elf_class = load_le<uint8_t>(head, EI_CLASS);
  const auto byte_order = load_le<uint8_t>(head, EI_DATA);
  if (byte_order != ELFDATA2LSB) return fail("{}: not a little-endian ELF file", name);
  if (elf_class == ELFCLASS64) return parse_class<Elf64_Ehdr, Elf64_Phdr>(head, name);
  if (elf_class == ELFCLASS32) return parse_class<Elf32_Ehdr, Elf32_Phdr>(head, name);
  return fail("{}: ELF class {} is neither 32 nor 64 bit", name, elf_class);
}

Result<void> check_segments_in_file(const ElfImage& elf, uint64_t file_bytes,
                                    std::string_view name) {
  for (const ElfSegment& segment : elf.segments) {
    if (fits(file_bytes, segment.file.offset, segment.file.size)) continue;
    return fail("{}: truncated: an ELF segment ends at byte {}, the file has {}", name,
                segment.file.offset + segment.file.size, file_bytes);
  }
  return {};
}

bool is_in_segment(const ElfImage& elf, Gpa address) {
  return std::any_of(elf.segments.begin(), elf.segments.end(),
                     [&](const ElfSegment& segment) { return segment.memory.contains(address); });
}

std::optional<Gpa> physical_entry(const ElfImage& elf) {
  if (is_in_segment(elf, Gpa{elf.entry})) return Gpa{elf.entry};
  for (const ElfSegment& segment : elf.segments) {
    if (elf.entry >= segment.vaddr && elf.entry - segment.vaddr < segment.memory.size) {
      return segment.memory.start + (elf.entry - segment.vaddr);
    }
  }
  return std::nullopt;
}

namespace {

void read_note(KernelNotes& notes, std::string_view owner, uint32_t type,
               std::span<const std::byte> value) {
  // Linux owns the notes of its build salt and LTO state (linux/build-salt.h), always present.
  if (owner == "Linux") notes.is_linux = true;
  if (owner != "Xen") return;
  if (type == kXenNoteGuestOs) {
    const std::string_view text(reinterpret_cast<const char*>(value.data()), value.size());
    if (text.starts_with("linux")) notes.is_linux = true;
  }
  if (type == kXenNotePhys32Entry) {
    // 4 bytes by the specification; Linux writes a machine word.
    if (value.size() >= sizeof(uint64_t)) {
      notes.pvh_entry = Gpa{load_le<uint64_t>(value, 0)};
    } else if (value.size() >= sizeof(uint32_t)) {
      notes.pvh_entry = Gpa{load_le<uint32_t>(value, 0)};
    }
  }
}

}  // namespace

KernelNotes read_kernel_notes(const ElfImage& elf, std::span<const std::byte> file) {
  KernelNotes notes;
  for (const FileExtent& extent : elf.notes) {
    if (!fits(file.size(), extent.offset, extent.size)) continue;
    std::span<const std::byte> rest = file.subspan(extent.offset, extent.size);
    while (rest.size() >= sizeof(Elf64_Nhdr)) {
      const auto header = load_le<Elf64_Nhdr>(rest, 0);
      // 64-bit sums of 32-bit sizes: no overflow.
      const uint64_t value_at =
          align_up(sizeof(header) + uint64_t{header.n_namesz}, elf.note_alignment);
      if (!fits(rest.size(), value_at, header.n_descsz)) break;
      std::string_view owner(reinterpret_cast<const char*>(rest.data()) + sizeof(header),
                             header.n_namesz);
      owner = owner.substr(0, owner.find('\0'));
      read_note(notes, owner, header.n_type, rest.subspan(value_at, header.n_descsz));
      const uint64_t next = align_up(value_at + header.n_descsz, elf.note_alignment);
      if (next >= rest.size()) break;
      rest = rest.subspan(next);
    }
  }
  return notes;
}

}  // namespace trapeze::boot
