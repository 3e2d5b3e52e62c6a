#include "accel/soft/mmu/walk.h"

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/tlb.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40,
                   kLarge = 0x80, kGlobal = 0x100, kNoExecute = uint64_t{1} << 63;
constexpr uint64_t kCr0Wp = 1U << 16, kCr4Pse = 1U << 4, kCr4Pae = 1U << 5, kCr4Pge = 1U << 7,
                   kCr4Smep = 1U << 20, kCr4Smap = 1U << 21;
constexpr uint64_t kEferNxe = 1U << 11;

// One entry of a table: where it is in host memory (null: not RAM) and what it held when read.
struct Entry {
  void* host = nullptr;
  uint64_t value = 0;
  bool wide = true;  // 8 bytes, else 4
};

Entry read_entry(const Cpu& cpu, uint64_t gpa, bool wide) {
  Entry entry;
  entry.wide = wide;
  entry.host = cpu.env->memory->host(Gpa{gpa}, wide ? 8 : 4);
  if (entry.host == nullptr) {
    entry.value = wide ? ~uint64_t{0} : 0xffff'ffffU;  // what a read of nothing returns
  } else if (wide) {
    entry.value = __atomic_load_n(static_cast<uint64_t*>(entry.host), __ATOMIC_RELAXED);
  } else {
    entry.value = __atomic_load_n(static_cast<uint32_t*>(entry.host), __ATOMIC_RELAXED);
  }
  return entry;
}

// Sets bits unless the entry has changed meanwhile; then the walk starts again.
bool set_bits(const Entry& entry, uint64_t bits) {
  if ((entry.value & bits) == bits || entry.host == nullptr) return true;
  if (entry.wide) {
    uint64_t expected = entry.value;
    return __atomic_compare_exchange_n(static_cast<uint64_t*>(entry.host), &expected,
                                       entry.value | bits, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_RELAXED);
  }
  auto expected = static_cast<uint32_t>(entry.value);
  return __atomic_compare_exchange_n(static_cast<uint32_t*>(entry.host), &expected,
                                     static_cast<uint32_t>(entry.value | bits), false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

class Walker {
 public:
  Walker(Cpu& cpu, uint64_t linear, WalkRequest request)
      : cpu_(cpu), linear_(linear), request_(request) {
    if ((cpu.efer & kEferNxe) == 0) reserved_ |= kNoExecute;
    const unsigned phys_bits = cpu.env->model->phys_bits();
    reserved_ |= ((uint64_t{1} << 52) - 1) & ~((uint64_t{1} << phys_bits) - 1);
  }

  // One try; `retry` says that an entry changed under us.
  bool run(PageTranslation& out, bool& retry) {
    retry = false;
    rights_ = kWritable | kUser;
    no_execute_ = false;
    if (is_long_mode(cpu_)) return run_levels(4, cpu_.cr3 & kTableMask, out, retry);
    if ((cpu_.cr4 & kCr4Pae) != 0) return run_pae(out, retry);
    return run_32bit(out, retry);
  }

 private:
  static constexpr uint64_t kTableMask = 0x000f'ffff'ffff'f000;

  bool fault(uint32_t code) {
    if (request_.write) code |= kPfWrite;
    if (request_.user) code |= kPfUser;
    // Bit 4 (SDM 3A 4.7): only when NX or SMEP make fetches distinguishable.
    const bool nx = (cpu_.cr4 & kCr4Pae) != 0 && (cpu_.efer & kEferNxe) != 0;
    if (request_.fetch && (nx || (cpu_.cr4 & kCr4Smep) != 0)) code |= kPfFetch;
    raise_page_fault(cpu_, linear_, code);
    return false;
  }

  bool permitted() const {
    const bool user_page = (rights_ & kUser) != 0;
    const bool writable_page = (rights_ & kWritable) != 0;
    if (request_.user) {
      return user_page && (!request_.write || writable_page) && (!request_.fetch || !no_execute_);
    }
    if (request_.fetch) return !no_execute_ && !(user_page && (cpu_.cr4 & kCr4Smep) != 0);
    if (user_page && (cpu_.cr4 & kCr4Smap) != 0 && !request_.ac_override) return false;
    return !request_.write || writable_page || (cpu_.cr0 & kCr0Wp) == 0;
  }

  bool may_write() const {
    return (rights_ & kWritable) != 0 || (!request_.user && (cpu_.cr0 & kCr0Wp) == 0);
  }

  // The leaf: rights, accessed and dirty bits, the address.
  bool finish(const Entry& leaf, uint64_t frame, uint64_t page_size, PageTranslation& out,
              bool& retry) {
    if (!permitted()) return fault(kPfPresent);
    const uint64_t bits = kAccessed | (request_.write ? kDirty : 0);
    if (!set_bits(leaf, bits)) {
      retry = true;
      return false;
    }
    out.gpa = frame | (linear_ & (page_size - 1));
    out.writable = may_write() && ((leaf.value | bits) & kDirty) != 0;
    out.global = (leaf.value & kGlobal) != 0 && (cpu_.cr4 & kCr4Pge) != 0;
    out.large = page_size != kPageSize;
    return true;
  }

  // Present and reserved bits of one entry, its share of the rights, the accessed bit.
  bool take_level(const Entry& entry, uint64_t reserved, bool leaf, bool& retry) {
    if ((entry.value & kPresent) == 0) return fault(0);
    if ((entry.value & reserved) != 0) return fault(kPfPresent | kPfReserved);
    rights_ &= entry.value;
    no_execute_ = no_execute_ || (entry.wide && (entry.value & kNoExecute) != 0);
    if (!leaf && !set_bits(entry, kAccessed)) {
      retry = true;
      return false;
    }
    return true;
  }

  // 8-byte tables from `level` (4: PML4) down to the page.
  bool run_levels(unsigned level, uint64_t table, PageTranslation& out, bool& retry) {
    for (;; --level) {
      const unsigned shift = 12 + 9 * (level - 1);
      const Entry entry = read_entry(cpu_, table + ((linear_ >> shift) & 511) * 8, true);
      const bool large_allowed =
          level == 2 || (level == 3 && cpu_.env->model->has(Feature::Pdpe1gb));
      const bool large = level > 1 && large_allowed && (entry.value & kLarge) != 0;
      uint64_t reserved = reserved_;
      // Outside long mode bits 52..62 are reserved too (SDM 3A table 4-8 ff.).
      if (!is_long_mode(cpu_)) reserved |= 0x7ff0'0000'0000'0000;
      if (level > 2 && !large_allowed) reserved |= kLarge;
      if (large) reserved |= ((uint64_t{1} << shift) - 1) & ~uint64_t{0x1fff};
      const bool leaf = level == 1 || large;
      if (!take_level(entry, reserved, leaf, retry)) return false;
      if (leaf) {
        const uint64_t page_size = uint64_t{1} << shift;
        return finish(entry, entry.value & kTableMask & ~(page_size - 1), page_size, out, retry);
      }
      table = entry.value & kTableMask;
    }
  }

  bool run_pae(PageTranslation& out, bool& retry) {
    const uint64_t pdpte = cpu_.tlbs->pdpte[(linear_ >> 30) & 3];
    if ((pdpte & kPresent) == 0) return fault(0);
    return run_levels(2, pdpte & kTableMask, out, retry);
  }

  bool run_32bit(PageTranslation& out, bool& retry) {
    const Entry pde =
        read_entry(cpu_, (cpu_.cr3 & 0xffff'f000U) + ((linear_ >> 22) & 1023) * 4, false);
    const bool large = (pde.value & kLarge) != 0 && (cpu_.cr4 & kCr4Pse) != 0;
    if (large) {
      // PSE-36: bits 13..20 are address bits 32..39, bit 21 is reserved (SDM 3A table 4-4).
      if (!take_level(pde, 1U << 21, true, retry)) return false;
      const uint64_t frame = (pde.value & 0xffc0'0000U) | ((pde.value >> 13) & 0xff) << 32;
      return finish(pde, frame, 4 * MiB, out, retry);
    }
    if (!take_level(pde, 0, false, retry)) return false;
    const Entry pte =
        read_entry(cpu_, (pde.value & 0xffff'f000U) + ((linear_ >> 12) & 1023) * 4, false);
    if (!take_level(pte, 0, true, retry)) return false;
    return finish(pte, pte.value & 0xffff'f000U, kPageSize, out, retry);
  }

  Cpu& cpu_;
  uint64_t linear_;
  WalkRequest request_;
  uint64_t reserved_ = 0;
  uint64_t rights_ = 0;
  bool no_execute_ = false;
};

}  // namespace

bool walk(Cpu& cpu, uint64_t linear, WalkRequest request, PageTranslation& out) {
  if ((cpu.cr0 >> 31) == 0) {  // CR0.PG
    out = {linear & 0xffff'ffffU, true, true, false};
    return true;
  }
  Walker walker(cpu, linear, request);
  for (;;) {
    bool retry = false;
    const bool found = walker.run(out, retry);
    if (!retry) return found;
  }
}

}  // namespace trapeze::soft
