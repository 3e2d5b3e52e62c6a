#include "accel/soft/mmu/fast_tlb.h"

#include <algorithm>
#include <cstring>

#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr FastTlb empty_table() {
  FastTlb table{};
  for (unsigned i = 0; i < kFastTlbEntries; ++i) {
    table.minus_read[i] = table.minus_write[i] = FastTlb::no_page(i);
  }
  return table;
}
constexpr FastTlb kEmpty = empty_table();

FastTable current_table(const Cpu& cpu) {
  if (cpu.tlb == &cpu.tlbs->supervisor) return FastTable::Supervisor;
  return cpu.cpl == 3 ? FastTable::User : FastTable::UserAsSupervisor;
}

}  // namespace

void clear_fast(FastTlb& table) {
  std::memcpy(table.minus_read, kEmpty.minus_read,
              sizeof(table.minus_read) + sizeof(table.minus_write));
}

void clear_fast_writes(FastTlb& table) {
  std::memcpy(table.minus_write, kEmpty.minus_write, sizeof(table.minus_write));
}

void clear_fast_page(FastTlb& table, uint64_t linear) {
  const unsigned i = FastTlb::index(linear);
  table.minus_read[i] = table.minus_write[i] = FastTlb::no_page(i);
}

void clear_fast_large(FastTlb& table, uint64_t linear) {
  // A page of the same GiB differs from `linear` only below bit 30.
  const auto same_gib = [linear](uint64_t minus) {
    return align_down(~minus + 1, GiB) == align_down(linear, GiB);
  };
  for (unsigned i = 0; i < kFastTlbEntries; ++i) {
    if (same_gib(table.minus_read[i])) table.minus_read[i] = FastTlb::no_page(i);
    if (same_gib(table.minus_write[i])) table.minus_write[i] = FastTlb::no_page(i);
  }
}

void clear_fast_writes(FastTlb& table, uint64_t host_base, std::span<const uint64_t> pages) {
  for (unsigned i = 0; i < kFastTlbEntries; ++i) {
    if (table.minus_write[i] == FastTlb::no_page(i)) continue;
    const uint64_t page = (~table.minus_write[i] + 1 + table.addend[i] - host_base) / kPageSize;
    if (std::find(pages.begin(), pages.end(), page) != pages.end()) {
      table.minus_write[i] = FastTlb::no_page(i);
    }
  }
}

void clear_jumps(JumpTable& jumps) {
  for (unsigned i = 0; i < kJumpEntries; ++i) jumps.minus_linear[i] = JumpTable::no_address(i);
}

void init_translator_state(Cpu& cpu) {
  for (FastTlb& table : cpu.translator.tlb) clear_fast(table);
  clear_jumps(cpu.translator.jumps);
  cpu.translator.cpu = &cpu;
}

void install_fast(Cpu& cpu, const TlbEntry& entry, uint64_t page) {
  FastTlb& table = cpu.translator.tlb[static_cast<unsigned>(current_table(cpu))];
  const unsigned i = FastTlb::index(page);
  table.minus_read[i] = entry.read_tag == page ? ~page + 1 : FastTlb::no_page(i);
  table.minus_write[i] = entry.write_tag == page ? ~page + 1 : FastTlb::no_page(i);
  table.addend[i] = entry.addend;
}

}  // namespace trapeze::soft
