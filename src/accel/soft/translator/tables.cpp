#include "accel/soft/translator/tables.h"

namespace trapeze::soft {

void clear_jumps(JumpTable& jumps) {
  for (unsigned i = 0; i < JumpTable::kEntries; ++i)
    jumps.minus_linear[i] = JumpTable::no_address(i);
}

Result<std::unique_ptr<TablesMemory>> TablesMemory::create(Cpu& cpu) {
  // Zeroes as they come, and only what is touched takes memory.
  auto mapping = TRY(Mapping::create(sizeof(TranslatorTables), PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0,
                                     "the translator's tables, below 2 GiB"));
  return std::unique_ptr<TablesMemory>(new TablesMemory(cpu, std::move(mapping)));
}

TablesMemory::TablesMemory(Cpu& cpu, Mapping mapping) : cpu_(cpu), mapping_(std::move(mapping)) {
  auto* tables = reinterpret_cast<TranslatorTables*>(mapping_.data());
  for (FastTlb& tlb : tables->tlb) {
    for (const unsigned i : {0U, FastTlb::kEntries - 1}) {
      tlb.minus_read[i] = tlb.minus_write[i] = no_fast_page(i);
    }
  }
  tables->jumps.minus_linear[0] = JumpTable::no_address(0);
  cpu.translator.tables = tables;
}

TablesMemory::~TablesMemory() {
  cpu_.translator.tables = nullptr;
  for (uint32_t& count : cpu_.translator.filled) count = 0;
}

}  // namespace trapeze::soft
