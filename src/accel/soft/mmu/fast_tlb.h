// Upkeep of the TLB that translated code probes inline (core/translator_state.h). Its entries are
// copies of TLB entries (mmu/tlb.h) that were valid when they were made; whatever drops
// translations there drops them here. All functions run on the vCPU's own thread, and do nothing
// for a CPU without a translator.
#pragma once

#include <span>

#include "accel/soft/core/cpu.h"
#include "accel/soft/mmu/tlb.h"

namespace trapeze::soft {

// The table for explicit accesses at this CPL and EFLAGS.AC; it goes with cpu.tlb.
FastTable current_table(const Cpu& cpu);

void clear_fast(Cpu& cpu, FastTable table);
void clear_fast_writes(Cpu& cpu, FastTable table);
// Takes back the right to write to the guest physical pages (page numbers); `host_base`: the host
// address of guest physical address 0.
void clear_fast_writes(Cpu& cpu, FastTable table, uint64_t host_base,
                       std::span<const uint64_t> pages);
// The page that holds `linear`; with `large` all of its GiB, because a large page may be meant.
void clear_fast_page(Cpu& cpu, FastTable table, uint64_t linear, bool large);
// Copies an entry of cpu.tlb for `page` to the table that code running now uses.
void install_fast(Cpu& cpu, const TlbEntry& entry, uint64_t page);

// Makes the page of `linear` available to translated code, walking the page tables where needed.
// False when it cannot be: a fault, MMIO, a watched page, a page with code (for writes). Then
// nothing is pending, and the instruction is for the interpreter.
bool fill_fast_tlb(Cpu& cpu, uint64_t linear, bool write);

}  // namespace trapeze::soft
