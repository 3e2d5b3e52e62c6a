#include "accel/soft/mmu/mmu.h"

#include <algorithm>

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/mmu/segment_access.h"
#include "accel/soft/mmu/walk.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kCr0Pg = uint64_t{1} << 31, kCr4Pcide = 1U << 17, kCr4Smap = 1U << 21;
constexpr uint64_t kFrameGlobal = 1, kFrameLarge = 2;

void clear(Tlb& tlb) {
  std::fill(std::begin(tlb.entries), std::end(tlb.entries), TlbEntry{});
  tlb.large_regions = 0;
  tlb.may_write = false;
  tlb.local_count = 0;
}

void clear_page(Tlb& tlb, uint64_t linear) {
  const uint64_t page = align_down(linear, kPageSize);
  TlbEntry& entry = tlb.entry(linear);
  if (entry.read_tag == page || entry.write_tag == page) entry = TlbEntry{};
  if (!tlb.may_have_large(linear)) return;
  // Fragments of the large page that holds `linear` may be anywhere in it. How large it was is not
  // remembered, so all fragments within the largest size go.
  for (TlbEntry& fragment : tlb.entries) {
    if ((fragment.frame & kFrameLarge) == 0) continue;
    const uint64_t tag = fragment.read_tag;
    if (align_down(tag, GiB) == align_down(linear, GiB)) fragment = TlbEntry{};
  }
}

bool is_flat(const Segment& segment) {
  constexpr uint32_t kWanted = kSegWritable | kSegS;
  return is_usable(segment) && segment.base == 0 && segment.limit == 0xffff'ffff &&
         (segment.access & (kWanted | kSegCode | kSegDown)) == kWanted;
}

// 32-bit code for which a linear address is an offset: CS, SS, DS and ES hold all of 4 GiB.
bool is_flat32(const Cpu& cpu) {
  const Segment& cs = cpu.seg[kCs];
  return cpu.code_size == CodeSize::Code32 && !is_real_or_vm86(cpu) && cs.base == 0 &&
         cs.limit == 0xffff'ffff && cpu.stack32 && is_flat(cpu.seg[kSs]) && is_flat(cpu.seg[kDs]) &&
         is_flat(cpu.seg[kEs]);
}

void refresh_code_tag(Cpu& cpu) {
  const uint64_t epoch =
      cpu.cpl == 3 ? cpu.tlbs->current->code_epoch : cpu.tlbs->supervisor_code_epoch;
  cpu.code_tag = epoch << 2 | static_cast<uint64_t>(cpu.code_size);
  // Supervisor code under EFLAGS.AC uses another table, so it is other code.
  const bool as_user = cpu.cpl != 3 && cpu.tlb != &cpu.tlbs->supervisor;
  const bool flat32 = is_flat32(cpu);
  cpu.translator.usable = (is_code64(cpu) || flat32) && (cpu.cpl == 0 || cpu.cpl == 3) ? 1 : 0;
  // 3 is no CodeSize: 32-bit code is translated for flat segments.
  cpu.translator.tag =
      ((cpu.code_tag | (flat32 ? 3U : 0U)) << 1 | (as_user ? 1U : 0U)) & kTranslatorTagMask;
}

uint64_t new_epoch(Cpu& cpu) {
  const uint64_t epoch = cpu.tlbs->next_epoch++;
  if ((epoch << 3 & kTranslatorTagMask) == 0) {
    cpu.translator.flush = 1;
    cpu.attention.fetch_or(kAttnEvent, std::memory_order_relaxed);
  }
  return epoch;
}

void new_code_epoch(Cpu& cpu, AddressSpace& space) {
  space.code_epoch = new_epoch(cpu);
  space.code = CodeFilter{};
  refresh_code_tag(cpu);
}
void new_supervisor_code_epoch(Cpu& cpu) {
  cpu.tlbs->supervisor_code_epoch = new_epoch(cpu);
  cpu.tlbs->supervisor_code = CodeFilter{};
  cpu.tlbs->local_supervisor_code = false;
  refresh_code_tag(cpu);
}

void clear_fast_user(Cpu& cpu) {
  clear_fast(cpu, FastTable::User);
  clear_fast(cpu, FastTable::UserAsSupervisor);
}
void clear_fast_page(Cpu& cpu, FastTable table, const Tlb& tlb, uint64_t linear) {
  soft::clear_fast_page(cpu, table, linear, tlb.may_have_large(linear));
}

void clear_space(Cpu& cpu, AddressSpace& space) {
  if (&space == cpu.tlbs->current) clear_fast_user(cpu);
  clear(space.user);
  clear(space.user_as_supervisor);
  new_code_epoch(cpu, space);
}

void drop_local_supervisor(Cpu& cpu) {
  Tlb& tlb = cpu.tlbs->supervisor;
  const auto drop = [](TlbEntry& entry) {
    if ((entry.frame & kFrameGlobal) == 0) entry = TlbEntry{};
  };
  if (tlb.local_count > Tlb::kMaxLocal) {
    for (TlbEntry& entry : tlb.entries) drop(entry);
    clear_fast(cpu, FastTable::Supervisor);
  } else {
    for (const uint64_t page : std::span(tlb.local_pages, tlb.local_count)) {
      drop(tlb.entry(page));
      soft::clear_fast_page(cpu, FastTable::Supervisor, page, false);
    }
  }
  tlb.local_count = 0;
  if (cpu.tlbs->local_supervisor_code) new_supervisor_code_epoch(cpu);
}

// Global user pages (rare: vsyscall) live in the per-address-space tables and go with them:
// dropping a global translation early is always allowed.
void select_space(Cpu& cpu, uint64_t pcid) {
  TlbContexts& tlbs = *cpu.tlbs;
  if (tlbs.current->pcid != pcid) clear_fast_user(cpu);
  AddressSpace* oldest = &tlbs.spaces[0];
  for (AddressSpace& space : tlbs.spaces) {
    if (space.pcid == pcid) {
      tlbs.current = &space;
      space.last_used = ++tlbs.uses;
      return;
    }
    if (space.last_used < oldest->last_used) oldest = &space;
  }
  clear_space(cpu, *oldest);
  oldest->pcid = pcid;
  oldest->last_used = ++tlbs.uses;
  tlbs.current = oldest;
}

uint64_t current_pcid(const Cpu& cpu) { return (cpu.cr4 & kCr4Pcide) != 0 ? cpu.cr3 & 0xfff : 0; }

}  // namespace

void select_tlb(Cpu& cpu) {
  TlbContexts& tlbs = *cpu.tlbs;
  if (cpu.cpl == 3) {
    cpu.tlb = &tlbs.current->user;
  } else if ((cpu.cr4 & kCr4Smap) != 0 && (cpu.rflags_system & kAc) != 0) {
    cpu.tlb = &tlbs.current->user_as_supervisor;
  } else {
    cpu.tlb = &tlbs.supervisor;
  }
  refresh_code_tag(cpu);
}

void flush_tlb(Cpu& cpu) {
  clear_fast(cpu, FastTable::Supervisor);
  clear_fast_user(cpu);
  clear(cpu.tlbs->supervisor);
  new_supervisor_code_epoch(cpu);
  for (AddressSpace& space : cpu.tlbs->spaces) {
    if (space.code_epoch == 0) continue;  // never used
    space.pcid = ~uint64_t{0};
    clear_space(cpu, space);
  }
  select_space(cpu, current_pcid(cpu));
  select_tlb(cpu);
}

void flush_tlb_keep_global(Cpu& cpu) {
  drop_local_supervisor(cpu);
  clear_space(cpu, *cpu.tlbs->current);
}

void flush_page(Cpu& cpu, uint64_t linear) {
  clear_fast_page(cpu, FastTable::Supervisor, cpu.tlbs->supervisor, linear);
  clear_fast_page(cpu, FastTable::User, cpu.tlbs->current->user, linear);
  clear_fast_page(cpu, FastTable::UserAsSupervisor, cpu.tlbs->current->user_as_supervisor, linear);
  clear_page(cpu.tlbs->supervisor, linear);
  if (cpu.tlbs->supervisor_code.may_hold(linear)) new_supervisor_code_epoch(cpu);
  clear_page(cpu.tlbs->current->user, linear);
  clear_page(cpu.tlbs->current->user_as_supervisor, linear);
  if (cpu.tlbs->current->code.may_hold(linear)) {
    new_code_epoch(cpu, *cpu.tlbs->current);
  }
  // A supervisor page may be global: other address spaces hold it as AC sees it.
  for (AddressSpace& space : cpu.tlbs->spaces) {
    if (&space == cpu.tlbs->current) continue;
    clear_page(space.user_as_supervisor, linear);
  }
}

void load_cr3(Cpu& cpu, uint64_t value, bool keep) {
  cpu.cr3 = value & ~(uint64_t{1} << 63);
  drop_local_supervisor(cpu);
  select_space(cpu, current_pcid(cpu));
  if (!keep) clear_space(cpu, *cpu.tlbs->current);
  select_tlb(cpu);
}

void invpcid(Cpu& cpu, unsigned type, uint64_t pcid, uint64_t linear) {
  switch (type) {
    case 0:
    case 1: {
      const bool is_current = pcid == current_pcid(cpu);
      if (is_current && type == 0) {
        flush_page(cpu, linear);
      } else if (is_current) {
        flush_tlb_keep_global(cpu);
      } else {
        for (AddressSpace& space : cpu.tlbs->spaces) {
          if (space.pcid == pcid) space.pcid = ~uint64_t{0};  // selecting it again clears it
        }
        // Supervisor entries are not tagged; they belong to the current address space only.
      }
      break;
    }
    case 2:
      flush_tlb(cpu);
      break;
    default:
      for (AddressSpace& space : cpu.tlbs->spaces) {
        if (&space != cpu.tlbs->current) space.pcid = ~uint64_t{0};
      }
      flush_tlb_keep_global(cpu);
      break;
  }
}

bool load_pdptes(Cpu& cpu, uint64_t cr3) {
  uint64_t loaded[4];
  const unsigned phys_bits = cpu.env->model->phys_bits();
  const uint64_t reserved = 0x1e6 | ~((uint64_t{1} << phys_bits) - 1);
  for (unsigned i = 0; i < 4; ++i) {
    loaded[i] =
        cpu.env->memory->load<uint64_t>(Gpa{(cr3 & 0xffff'ffe0U) + i * 8}).value_or(~uint64_t{0});
    if ((loaded[i] & 1) != 0 && (loaded[i] & reserved) != 0) {
      raise(cpu, kGP, 0);
      return false;
    }
  }
  std::copy(std::begin(loaded), std::end(loaded), std::begin(cpu.tlbs->pdpte));
  return true;
}

bool is_canonical(const Cpu&, uint64_t linear) {
  return static_cast<uint64_t>(static_cast<int64_t>(linear << 16) >> 16) == linear;
}

bool translate_fetch(Cpu& cpu, uint64_t linear, uint64_t& gpa) {
  if (is_code64(cpu) && !is_canonical(cpu, linear)) {
    raise(cpu, kGP, 0);
    return false;
  }
  PageTranslation translation;
  WalkRequest request;
  request.fetch = true;
  request.user = cpu.cpl == 3;
  if (!walk(cpu, linear, request, translation)) return false;
  if (!request.user && !translation.global && (cpu.cr0 & kCr0Pg) != 0) {
    cpu.tlbs->local_supervisor_code = true;
  }
  if (request.user) {
    cpu.tlbs->current->code.add(linear, translation.large);
  } else {
    cpu.tlbs->supervisor_code.add(linear, translation.large);
  }
  gpa = translation.gpa;
  return true;
}

namespace {

void drop_write_tags(Tlb& tlb, std::span<const uint64_t> pages) {
  if (!tlb.may_write) return;
  if (pages.empty()) tlb.may_write = false;
  if (pages.size() == 1) {  // the usual case: code was found on a new page
    const uint64_t page = pages.front();
    for (TlbEntry& entry : tlb.entries) {
      if (entry.frame / kPageSize == page) entry.write_tag = kNoTag;
    }
    return;
  }
  for (TlbEntry& entry : tlb.entries) {
    const uint64_t frame = entry.frame / kPageSize;
    const bool wanted =
        pages.empty() || std::find(pages.begin(), pages.end(), frame) != pages.end();
    if (wanted) entry.write_tag = kNoTag;
  }
}

}  // namespace

void drop_write_tags(Cpu& cpu, std::span<const uint64_t> pages) {
  const auto host_base = reinterpret_cast<uint64_t>(cpu.env->memory->host_base());
  for (unsigned i = 0; i < kFastTables; ++i) {
    const auto table = static_cast<FastTable>(i);
    if (pages.empty()) {
      clear_fast_writes(cpu, table);
    } else {
      clear_fast_writes(cpu, table, host_base, pages);
    }
  }
  drop_write_tags(cpu.tlbs->supervisor, pages);
  for (AddressSpace& space : cpu.tlbs->spaces) {
    if (space.code_epoch == 0) continue;  // never used
    drop_write_tags(space.user, pages);
    drop_write_tags(space.user_as_supervisor, pages);
  }
}

}  // namespace trapeze::soft
