// Address translation: paging modes, TLB maintenance, code fetch.
// All functions run on the vCPU's own thread.
#pragma once

#include <cstdint>
#include <span>

#include "accel/soft/core/cpu.h"
#include "accel/soft/mmu/tlb.h"

namespace trapeze::soft {

// Page-fault error code bits (SDM 3A 4.7).
inline constexpr uint32_t kPfPresent = 1, kPfWrite = 2, kPfUser = 4, kPfReserved = 8, kPfFetch = 16;

// Points cpu.tlb at the table for explicit accesses; call after a change of CPL, EFLAGS.AC,
// CR4.SMAP or CR0.PG.
void select_tlb(Cpu& cpu);

// Drops translations. `flush_tlb` also the global ones.
void flush_tlb(Cpu& cpu);
void flush_tlb_keep_global(Cpu& cpu);
// INVLPG: the page that holds `linear`, global or not, also as part of a large page.
void flush_page(Cpu& cpu, uint64_t linear);
// MOV to CR3 (the value is already checked): sets cpu.cr3 without bit 63 and drops what the
// architecture says; with `keep` (bit 63 under CR4.PCIDE) the PCID's translations stay.
void load_cr3(Cpu& cpu, uint64_t value, bool keep);
// INVPCID types 0..3 (SDM 2A), arguments already checked.
void invpcid(Cpu& cpu, unsigned type, uint64_t pcid, uint64_t linear);
// Loads the PAE page-directory-pointer registers from cr3 (32-bit PAE mode); false with #GP pending
// when one has reserved bits set (SDM 3A 4.4.1).
bool load_pdptes(Cpu& cpu, uint64_t cr3);

// Guest physical address of the code byte at `linear` for the current CPL; false with #PF or #GP
// pending. `linear` must lie in the code segment.
bool translate_fetch(Cpu& cpu, uint64_t linear, uint64_t& gpa);

// True when `linear` is canonical for the current paging mode (48 bits; 57 with LA57).
bool is_canonical(const Cpu& cpu, uint64_t linear);

// Cpu::code_tag is a number that changes whenever a cached linear-to-code association may have
// become wrong: other address space, flush, CPL or code size. The block lookup keys on it.
// select_tlb() and the functions above keep it current.

// Takes back the right to write at once to the given guest physical pages (page numbers; empty:
// all), because code was decoded from them.
void drop_write_tags(Cpu& cpu, std::span<const uint64_t> pages);

}  // namespace trapeze::soft
