#include "arch/x86/layout.h"

namespace trapeze::layout {

std::vector<GpaRange> ram_ranges(uint64_t size_bytes) {
  if (size_bytes <= kLowRamEnd) return {{Gpa{0}, size_bytes}};
  return {{Gpa{0}, kLowRamEnd}, {kHighRamStart, size_bytes - kLowRamEnd}};
}

Gpa pmem_start(uint64_t ram_size_bytes) {
  uint64_t ram_end = kHighRamStart.raw();
  if (ram_size_bytes > kLowRamEnd) ram_end += ram_size_bytes - kLowRamEnd;
  return Gpa{align_up(ram_end, GiB)};
}

GpaRange pci_mmio64(uint64_t ram_size_bytes, uint64_t pmem_bytes) {
  return {Gpa{align_up(pmem_start(ram_size_bytes).raw() + pmem_bytes, GiB)}, kPciMmio64Size};
}

}  // namespace trapeze::layout
