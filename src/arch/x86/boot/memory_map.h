// The memory map a guest is told at boot, in the numbers of E820, which PVH and multiboot share.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/guest_memory.h"

namespace trapeze::boot {

// ACPI 6.4 table 15.4 (address range types).
enum class MemoryType : uint32_t { Ram = 1, Reserved = 2 };

struct MemoryMapEntry {
  GpaRange range;
  MemoryType type = MemoryType::Ram;
  bool operator==(const MemoryMapEntry&) const = default;
};

// Ascending. RAM but for the BIOS area below 1 MiB; the ECAM window is told as reserved, because
// Linux uses it only when it is (arch/x86/pci/mmconfig-shared.c).
std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

// Largest number of entries that memory_map() returns for `ram_ranges` ranges of RAM.
constexpr size_t max_map_entries(size_t ram_ranges) { return ram_ranges + 3; }

}  // namespace trapeze::boot
