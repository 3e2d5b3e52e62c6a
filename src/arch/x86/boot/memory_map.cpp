#include "arch/x86/boot/memory_map.h"

#include <algorithm>

#include "arch/x86/layout.h"
#include "base/units.h"

namespace trapeze::boot {

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
  const GpaRange bios_area{layout::kEbda, MiB - layout::kEbda.raw()};
  std::vector<MemoryMapEntry> map;
  const auto add_ram = [&](Gpa start, Gpa end) {
    if (start < end) map.push_back({{start, end - start}, MemoryType::Ram});
  };
  for (const GpaRange& ram : memory.ram()) {
    add_ram(ram.start, std::min(ram.end(), bios_area.start));
    add_ram(std::max(ram.start, bios_area.end()), ram.end());
  }
  map.push_back({bios_area, MemoryType::Reserved});
  map.push_back({layout::kPciEcam, MemoryType::Reserved});
  std::sort(map.begin(), map.end(), [](const MemoryMapEntry& left, const MemoryMapEntry& right) {
    return left.range.start < right.range.start;
  });
  return map;
}

}  // namespace trapeze::boot
