#include "arch/x86/boot/placement.h"

#include <algorithm>
#include <cstring>

#include "arch/x86/layout.h"
#include "base/units.h"

namespace trapeze::boot {
namespace {

bool is_zero(std::span<const std::byte> bytes) {
  // The first byte is zero, and every byte equals its neighbour.
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace

Placement::Placement(const GuestMemory& memory, std::string_view kernel_name)
    : memory_(memory), kernel_name_(kernel_name) {
  claims_.push_back({{layout::kEbda, MiB - layout::kEbda.raw()}, "the BIOS area and ACPI tables"});
}

const Placement::Claim* Placement::overlapping(const GpaRange& range) const {
  const auto found = std::find_if(claims_.begin(), claims_.end(),
                                  [&](const Claim& claim) { return claim.range.overlaps(range); });
  return found == claims_.end() ? nullptr : &*found;
}

Result<void> Placement::claim(GpaRange range, std::string_view what) {
  if (range.size == 0) return {};
  const uint64_t start = range.start.raw();
  const uint64_t end = range.end().raw();
  if (memory_.host(range.start, range.size) == nullptr) {
    const uint64_t ram_mib = memory_.size_bytes() / MiB;
    if (start < layout::kLowRamEnd && end <= layout::kLowRamEnd) {
      return fail(
          "{}: {} goes to {:#x}..{:#x}, but the virtual machine has only {} MiB of memory: "
          "give it more than {} MiB",
          kernel_name_, what, start, end, ram_mib, align_up(end, MiB) / MiB);
    }
    return fail("{}: {} goes to {:#x}..{:#x}, where this machine has no RAM (it has {} MiB)",
                kernel_name_, what, start, end, ram_mib);
  }
  if (const Claim* other = overlapping(range)) {
    return fail("{}: {} at {:#x}..{:#x} overlaps {} at {:#x}..{:#x}", kernel_name_, what, start,
                end, other->what, other->range.start.raw(), other->range.end().raw());
  }
  claims_.push_back({range, std::string(what)});
  return {};
}

Result<void> Placement::claim_segments(const ElfImage& elf) {
  for (size_t i = 0; i < elf.segments.size(); ++i) {
    TRY(claim(elf.segments[i].memory, fmt::format("ELF segment {}", i)));
  }
  return {};
}

std::optional<Gpa> Placement::find_highest(uint64_t limit, uint64_t size) const {
  uint64_t top = std::min({limit, layout::kLowRamEnd, memory_.end().raw()});
  // Every round ends below the claim that was in the way: at most one round a claim.
  while (top >= size) {
    const Gpa start{align_down(top - size, kPageSize)};
    const Claim* obstacle = overlapping({start, size});
    if (obstacle == nullptr) {
      return memory_.host(start, size) != nullptr ? std::optional(start) : std::nullopt;
    }
    top = obstacle->range.start.raw();
  }
  return std::nullopt;
}

std::optional<Gpa> Placement::find_lowest(Gpa from, uint64_t size) const {
  const uint64_t end = std::min(layout::kLowRamEnd, memory_.end().raw());
  uint64_t start = align_up(from.raw(), kPageSize);
  while (start <= end && size <= end - start) {
    const Claim* obstacle = overlapping({Gpa{start}, size});
    if (obstacle == nullptr) {
      return memory_.host(Gpa{start}, size) != nullptr ? std::optional(Gpa{start}) : std::nullopt;
    }
    start = align_up(obstacle->range.end().raw(), kPageSize);
  }
  return std::nullopt;
}

void copy_to_ram(GuestMemory& memory, Gpa gpa, std::span<const std::byte> bytes, bool ram_is_zero) {
  if (bytes.empty()) return;
  std::byte* const to = memory.host(gpa, bytes.size());
  CHECK(to != nullptr);
  for (size_t done = 0; done < bytes.size();) {
    const uint64_t left_in_page = kPageSize - (gpa.raw() + done) % kPageSize;
    const auto page = bytes.subspan(done, std::min<uint64_t>(left_in_page, bytes.size() - done));
    if (!ram_is_zero || !is_zero(page)) std::memcpy(to + done, page.data(), page.size());
    done += page.size();
  }
  memory.mark_written({gpa, bytes.size()});
}

void put_in_ram(GuestMemory& memory, Gpa gpa, const FilePart& part, bool ram_is_zero) {
  // Below this the copy is cheaper than a mapping of its own.
  constexpr uint64_t kWorthMapping = 64 * KiB;
  const uint64_t start = align_up(gpa.raw(), kPageSize);
  const uint64_t end = align_down(gpa.raw() + part.bytes.size(), kPageSize);
  const bool is_worth_it = end > start && end - start >= kWorthMapping;
  const uint64_t head_bytes = start - gpa.raw();
  if (part.file == nullptr || !is_worth_it ||
      !memory.map_file(Gpa{start}, *part.file, part.offset + head_bytes, end - start)) {
    return copy_to_ram(memory, gpa, part.bytes, ram_is_zero);
  }
  copy_to_ram(memory, gpa, part.bytes.first(head_bytes), ram_is_zero);
  copy_to_ram(memory, Gpa{end}, part.bytes.subspan(end - gpa.raw()), ram_is_zero);
}

void load_segments(const ElfImage& elf, const FilePart& image, bool ram_is_zero,
                   GuestMemory& memory) {
  for (const ElfSegment& segment : elf.segments) {
    put_in_ram(memory, segment.memory.start,
               {.bytes = image.bytes.subspan(segment.file.offset, segment.file.size),
                .file = image.file,
                .offset = image.offset + segment.file.offset},
               ram_is_zero);
  }
  if (!ram_is_zero) clear_bss(elf, memory);
}

void clear_bss(const ElfImage& elf, GuestMemory& memory) {
  for (const ElfSegment& segment : elf.segments) {
    const bool in_ram = memory.fill(segment.memory.start + segment.file.size, std::byte{0},
                                    segment.memory.size - segment.file.size);
    CHECK(in_ram);
  }
}

}  // namespace trapeze::boot
