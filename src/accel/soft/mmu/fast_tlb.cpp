#include "accel/soft/mmu/fast_tlb.h"

#include <algorithm>
#include <cstring>

#include "base/units.h"

namespace trapeze::soft {
namespace {

// The tags of an empty table, by table: clearing is a copy.
struct EmptyTags {
  uint64_t tags[kFastTables][FastTlb::kMaxEntries];
};
constexpr EmptyTags make_empty() {
  EmptyTags empty{};
  for (unsigned table = 0; table < kFastTables; ++table) {
    for (unsigned i = 0; i < kFastEntries[table]; ++i) {
      empty.tags[table][i] = no_fast_page(i, kFastEntries[table]);
    }
  }
  return empty;
}
constexpr EmptyTags kEmpty = make_empty();

FastTlb& fast(Cpu& cpu, FastTable table) {
  return cpu.translator.tlb[static_cast<unsigned>(table)];
}
const uint64_t* empty_tags(FastTable table) { return kEmpty.tags[static_cast<unsigned>(table)]; }
size_t tags_size(FastTable table) { return fast_entries(table) * sizeof(uint64_t); }

}  // namespace

FastTable current_table(const Cpu& cpu) {
  if (cpu.tlb == &cpu.tlbs->supervisor) return FastTable::Supervisor;
  return cpu.cpl == 3 ? FastTable::User : FastTable::UserAsSupervisor;
}

void clear_fast(Cpu& cpu, FastTable table) {
  std::memcpy(fast(cpu, table).minus_read, empty_tags(table), tags_size(table));
  clear_fast_writes(cpu, table);
}

void clear_fast_writes(Cpu& cpu, FastTable table) {
  std::memcpy(fast(cpu, table).minus_write, empty_tags(table), tags_size(table));
}

void clear_fast_page(Cpu& cpu, FastTable which, uint64_t linear, bool large) {
  FastTlb& table = fast(cpu, which);
  const unsigned entries = fast_entries(which);
  const unsigned slot = static_cast<unsigned>(linear / kPageSize) % entries;
  table.minus_read[slot] = table.minus_write[slot] = empty_tags(which)[slot];
  if (!large) return;
  const auto same_gib = [linear](uint64_t minus) {
    return align_down(~minus + 1, GiB) == align_down(linear, GiB);
  };
  for (unsigned i = 0; i < entries; ++i) {
    if (same_gib(table.minus_read[i])) table.minus_read[i] = empty_tags(which)[i];
    if (same_gib(table.minus_write[i])) table.minus_write[i] = empty_tags(which)[i];
  }
}

void clear_fast_writes(Cpu& cpu, FastTable which, uint64_t host_base,
                       std::span<const uint64_t> pages) {
  FastTlb& table = fast(cpu, which);
  for (unsigned i = 0; i < fast_entries(which); ++i) {
    if (table.minus_write[i] == empty_tags(which)[i]) continue;
    const uint64_t page = (~table.minus_write[i] + 1 + table.addend[i] - host_base) / kPageSize;
    if (std::find(pages.begin(), pages.end(), page) != pages.end()) {
      table.minus_write[i] = empty_tags(which)[i];
    }
  }
}

void clear_jumps(JumpTable& jumps) {
  for (unsigned i = 0; i < kJumpEntries; ++i)
    jumps.entries[i].minus_linear = JumpTable::no_address(i);
}

void init_translator_state(Cpu& cpu) {
  for (unsigned i = 0; i < kFastTables; ++i) clear_fast(cpu, static_cast<FastTable>(i));
  clear_jumps(cpu.translator.jumps);
  cpu.translator.cpu = &cpu;
}

void install_fast(Cpu& cpu, const TlbEntry& entry, uint64_t page) {
  const FastTable which = current_table(cpu);
  FastTlb& table = fast(cpu, which);
  const unsigned i = static_cast<unsigned>(page / kPageSize) % fast_entries(which);
  table.minus_read[i] = entry.read_tag == page ? ~page + 1 : empty_tags(which)[i];
  table.minus_write[i] = entry.write_tag == page ? ~page + 1 : empty_tags(which)[i];
  table.addend[i] = entry.addend;
}

}  // namespace trapeze::soft
