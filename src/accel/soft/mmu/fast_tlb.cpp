#include "accel/soft/mmu/fast_tlb.h"

#include <algorithm>

#include "base/units.h"

namespace trapeze::soft {
namespace {

FastTlb& fast(Cpu& cpu, FastTable table) {
  return cpu.translator.tables->tlb[static_cast<unsigned>(table)];
}
// The entries that are in use.
std::span<const uint16_t> filled(Cpu& cpu, FastTable table) {
  if (cpu.translator.tables == nullptr) return {};
  return {fast(cpu, table).filled, cpu.translator.filled[static_cast<unsigned>(table)]};
}

}  // namespace

FastTable current_table(const Cpu& cpu) {
  if (cpu.tlb == &cpu.tlbs->supervisor) return FastTable::Supervisor;
  return cpu.cpl == 3 ? FastTable::User : FastTable::UserAsSupervisor;
}

void clear_fast(Cpu& cpu, FastTable which) {
  const std::span<const uint16_t> entries = filled(cpu, which);
  if (entries.empty()) return;
  FastTlb& table = fast(cpu, which);
  for (const uint16_t i : entries) {
    table.minus_read[i] = table.minus_write[i] = no_fast_page(i);
    table.addend[i] = 0;
  }
  cpu.translator.filled[static_cast<unsigned>(which)] = 0;
}

void clear_fast_writes(Cpu& cpu, FastTable which) {
  for (const uint16_t i : filled(cpu, which)) fast(cpu, which).minus_write[i] = no_fast_page(i);
}

void clear_fast_page(Cpu& cpu, FastTable which, uint64_t linear, bool large) {
  if (cpu.translator.tables == nullptr) return;
  FastTlb& table = fast(cpu, which);
  const unsigned slot = static_cast<unsigned>(linear / kPageSize) % FastTlb::kEntries;
  table.minus_read[slot] = table.minus_write[slot] = no_fast_page(slot);
  if (!large) return;
  const auto same_gib = [linear](uint64_t minus) {
    return align_down(~minus + 1, GiB) == align_down(linear, GiB);
  };
  for (const uint16_t i : filled(cpu, which)) {
    if (same_gib(table.minus_read[i])) table.minus_read[i] = no_fast_page(i);
    if (same_gib(table.minus_write[i])) table.minus_write[i] = no_fast_page(i);
  }
}

void clear_fast_writes(Cpu& cpu, FastTable which, uint64_t host_base,
                       std::span<const uint64_t> pages) {
  for (const uint16_t i : filled(cpu, which)) {
    FastTlb& table = fast(cpu, which);
    if (table.minus_write[i] == no_fast_page(i)) continue;
    const uint64_t page = (~table.minus_write[i] + 1 + table.addend[i] - host_base) / kPageSize;
    if (std::find(pages.begin(), pages.end(), page) != pages.end()) {
      table.minus_write[i] = no_fast_page(i);
    }
  }
}

void install_fast(Cpu& cpu, const TlbEntry& entry, uint64_t page) {
  if (cpu.translator.tables == nullptr) return;
  const FastTable which = current_table(cpu);
  FastTlb& table = fast(cpu, which);
  uint32_t& count = cpu.translator.filled[static_cast<unsigned>(which)];
  const unsigned i = static_cast<unsigned>(page / kPageSize) % FastTlb::kEntries;
  if (table.addend[i] == 0 && count == FastTlb::kMaxFilled) clear_fast(cpu, which);
  if (table.addend[i] == 0) table.filled[count++] = static_cast<uint16_t>(i);
  table.minus_read[i] = entry.read_tag == page ? ~page + 1 : no_fast_page(i);
  table.minus_write[i] = entry.write_tag == page ? ~page + 1 : no_fast_page(i);
  table.addend[i] = entry.addend;
}

}  // namespace trapeze::soft
