#include "accel/soft/mmu/access.h"

#include <algorithm>
#include <mutex>

#include "accel/soft/core/env.h"
#include "accel/soft/mmu/code_map.h"
#include "accel/soft/mmu/fast_tlb.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/mmu/walk.h"
#include "accel/soft/mmu/watch.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

// An access may touch two pages; both are translated before anything is read or written.
struct Pieces {
  uint64_t gpa[2] = {};
  unsigned size[2] = {};
  unsigned count = 0;
};

uint64_t wrap(const Cpu& cpu, uint64_t linear) {
  return is_long_mode(cpu) ? linear : linear & 0xffff'ffffU;
}

bool check_canonical(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg) {
  if (!is_long_mode(cpu)) return true;
  if (is_canonical(cpu, linear) && is_canonical(cpu, linear + size - 1)) return true;
  raise(cpu, seg == kSs ? kSS : kGP, 0);
  return false;
}

WalkRequest explicit_request(const Cpu& cpu, bool write) {
  WalkRequest request;
  request.write = write;
  request.user = cpu.cpl == 3;
  request.ac_override = (cpu.rflags_system & kAc) != 0;
  return request;
}

void fill_tlb(Cpu& cpu, Tlb& tlb, uint64_t linear, const PageTranslation& translation) {
  const uint64_t page = align_down(linear, kPageSize);
  const uint64_t frame = align_down(translation.gpa, kPageSize);
  const std::byte* host = cpu.env->memory->host(Gpa{frame}, kPageSize);
  if (host == nullptr || page_is_watched(cpu, page)) return;
  TlbEntry& entry = tlb.entry(linear);
  const bool has_code = cpu.env->code_map->has_code(frame / kPageSize);
  entry.read_tag = page;
  entry.write_tag = translation.writable && !has_code ? page : kNoTag;
  tlb.may_write |= entry.write_tag == page;
  entry.addend = reinterpret_cast<uint64_t>(host) - page;
  entry.frame = frame | (translation.global ? 1U : 0U) | (translation.large ? 2U : 0U);
  if (translation.large) tlb.large_regions |= Tlb::region(page);
  if (!translation.global) tlb.note_local(page);
}

bool translate_piece(Cpu& cpu, Tlb& tlb, uint64_t linear, unsigned size, WalkRequest request,
                     Pieces& pieces) {
  PageTranslation translation;
  if (!walk(cpu, linear, request, translation)) return false;
  fill_tlb(cpu, tlb, linear, translation);
  pieces.gpa[pieces.count] = translation.gpa;
  pieces.size[pieces.count] = size;
  ++pieces.count;
  return true;
}

bool translate(Cpu& cpu, Tlb& tlb, uint64_t linear, unsigned size, WalkRequest request,
               Pieces& pieces) {
  linear = wrap(cpu, linear);
  const auto in_page = static_cast<unsigned>(kPageSize - linear % kPageSize);
  const unsigned first = std::min(size, in_page);
  if (!translate_piece(cpu, tlb, linear, first, request, pieces)) return false;
  if (first == size) return true;
  return translate_piece(cpu, tlb, wrap(cpu, linear + first), size - first, request, pieces);
}

// The largest power of two that divides the address and fits the size, at most 8.
Width piece_width(uint64_t gpa, unsigned size) {
  for (const Width width : {Width::Qword, Width::Dword, Width::Word}) {
    if (size >= bytes_of(width) && gpa % bytes_of(width) == 0) return width;
  }
  return Width::Byte;
}

void mmio_read(const Cpu& cpu, uint64_t gpa, unsigned char* to, unsigned size) {
  while (size > 0) {
    const Width width = piece_width(gpa, size);
    uint64_t value = all_ones(width);
    if (cpu.env->local_io == nullptr || !cpu.env->local_io->mmio_read(gpa, width, value)) {
      if (cpu.env->io != nullptr) value = cpu.env->io->mmio_read(Gpa{gpa}, width);
    }
    std::memcpy(to, &value, bytes_of(width));
    gpa += bytes_of(width);
    to += bytes_of(width);
    size -= bytes_of(width);
  }
}

void mmio_write(const Cpu& cpu, uint64_t gpa, const unsigned char* from, unsigned size) {
  while (size > 0) {
    const Width width = piece_width(gpa, size);
    uint64_t value = 0;
    std::memcpy(&value, from, bytes_of(width));
    if (cpu.env->local_io == nullptr || !cpu.env->local_io->mmio_write(gpa, width, value)) {
      if (cpu.env->io != nullptr) cpu.env->io->mmio_write(Gpa{gpa}, width, value);
    }
    gpa += bytes_of(width);
    from += bytes_of(width);
    size -= bytes_of(width);
  }
}

// A copy that keeps naturally aligned accesses of up to 8 bytes whole.
void copy_whole(void* to, const void* from, unsigned size) {
  switch (size) {
    case 1:
      store_host<uint8_t>(to, load_host<uint8_t>(from));
      return;
    case 2:
      store_host<uint16_t>(to, load_host<uint16_t>(from));
      return;
    case 4:
      store_host<uint32_t>(to, load_host<uint32_t>(from));
      return;
    case 8:
      store_host<uint64_t>(to, load_host<uint64_t>(from));
      return;
    default:
      std::memcpy(to, from, size);
      return;
  }
}

void read_pieces(Cpu& cpu, const Pieces& pieces, void* to) {
  auto* bytes = static_cast<unsigned char*>(to);
  for (unsigned i = 0; i < pieces.count; ++i) {
    const std::byte* host = cpu.env->memory->host(Gpa{pieces.gpa[i]}, pieces.size[i]);
    if (host != nullptr) {
      copy_whole(bytes, host, pieces.size[i]);
    } else {
      mmio_read(cpu, pieces.gpa[i], bytes, pieces.size[i]);
    }
    bytes += pieces.size[i];
  }
}

void code_written(Cpu& cpu, uint64_t gpa, unsigned size) {
  cpu.env->code_map->written(gpa, size);
  if ((cpu.attention.load(std::memory_order_relaxed) & kAttnCode) != 0 &&
      cpu.env->code_owner != nullptr) {
    cpu.env->code_owner->drop_stale_code(cpu);
  }
}

void write_pieces(Cpu& cpu, const Pieces& pieces, const void* from) {
  const auto* bytes = static_cast<const unsigned char*>(from);
  for (unsigned i = 0; i < pieces.count; ++i) {
    std::byte* host = cpu.env->memory->host(Gpa{pieces.gpa[i]}, pieces.size[i]);
    if (host != nullptr) {
      copy_whole(host, bytes, pieces.size[i]);
      code_written(cpu, pieces.gpa[i], pieces.size[i]);
    } else {
      mmio_write(cpu, pieces.gpa[i], bytes, pieces.size[i]);
    }
    bytes += pieces.size[i];
  }
}

// One lock for the process: such accesses are rare, and splitting it by VM would buy nothing.
std::mutex& slow_modify_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

bool fill_fast_tlb(Cpu& cpu, uint64_t linear, bool write) {
  linear = wrap(cpu, linear);
  const uint64_t page = align_down(linear, kPageSize);
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if ((write ? entry.write_tag : entry.read_tag) != page) {
    if (is_long_mode(cpu) && !is_canonical(cpu, linear)) return false;
    PageTranslation translation;
    if (!walk(cpu, linear, explicit_request(cpu, write), translation)) {
      cpu.fault = {};
      return false;
    }
    fill_tlb(cpu, *cpu.tlb, linear, translation);
    if ((write ? entry.write_tag : entry.read_tag) != page) return false;
  }
  install_fast(cpu, entry, page);
  return true;
}

bool slow_read(Cpu& cpu, uint64_t linear, void* to, unsigned size, uint8_t seg) {
  if (!check_canonical(cpu, linear, size, seg)) return false;
  Pieces pieces;
  if (!translate(cpu, *cpu.tlb, linear, size, explicit_request(cpu, false), pieces)) return false;
  note_watched_access(cpu, linear, size, false);
  read_pieces(cpu, pieces, to);
  return true;
}

bool slow_write(Cpu& cpu, uint64_t linear, const void* from, unsigned size, uint8_t seg) {
  if (!check_canonical(cpu, linear, size, seg)) return false;
  Pieces pieces;
  if (!translate(cpu, *cpu.tlb, linear, size, explicit_request(cpu, true), pieces)) return false;
  note_watched_access(cpu, linear, size, true);
  write_pieces(cpu, pieces, from);
  return true;
}

bool probe_write(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag == tag_of(linear, size)) return true;
  if (!check_canonical(cpu, linear, size, seg)) return false;
  Pieces pieces;
  return translate(cpu, *cpu.tlb, linear, size, explicit_request(cpu, true), pieces);
}

void* slow_writable(Cpu& cpu, uint64_t linear, unsigned size, uint8_t seg) {
  if (!check_canonical(cpu, linear, size, seg)) return nullptr;
  Pieces pieces;
  if (!translate(cpu, *cpu.tlb, linear, size, explicit_request(cpu, true), pieces)) return nullptr;
  if (pieces.count != 1) return nullptr;
  std::byte* host = cpu.env->memory->host(Gpa{pieces.gpa[0]}, size);
  if (host != nullptr) note_watched_access(cpu, linear, size, true);
  return host;
}

void wrote_slowly(Cpu& cpu, const void* host, unsigned size) {
  const auto offset =
      static_cast<uint64_t>(static_cast<const std::byte*>(host) - cpu.env->memory->host_base());
  code_written(cpu, offset, size);
}

void slow_modify_lock(Cpu&) { slow_modify_mutex().lock(); }
void slow_modify_unlock(Cpu&) { slow_modify_mutex().unlock(); }

bool read_system(Cpu& cpu, uint64_t linear, void* to, unsigned size) {
  // The supervisor's table obeys SMAP, as implicit accesses must: every event reads here four
  // times.
  const TlbEntry& entry = cpu.tlbs->supervisor.entry(linear);
  if (entry.read_tag == tag_of(linear, size)) {
    copy_whole(to, entry.host(linear), size);
    return true;
  }
  if (!check_canonical(cpu, linear, size, kDs)) return false;
  Pieces pieces;
  if (!translate(cpu, cpu.tlbs->supervisor, linear, size, WalkRequest{}, pieces)) return false;
  read_pieces(cpu, pieces, to);
  return true;
}

bool write_system(Cpu& cpu, uint64_t linear, const void* from, unsigned size) {
  if (!check_canonical(cpu, linear, size, kDs)) return false;
  WalkRequest request;
  request.write = true;
  Pieces pieces;
  if (!translate(cpu, cpu.tlbs->supervisor, linear, size, request, pieces)) return false;
  write_pieces(cpu, pieces, from);
  return true;
}

void* host_for_read(Cpu& cpu, uint64_t linear) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  return entry.read_tag == align_down(linear, kPageSize) ? entry.host(linear) : nullptr;
}

void* host_for_write(Cpu& cpu, uint64_t linear) {
  const TlbEntry& entry = cpu.tlb->entry(linear);
  return entry.write_tag == align_down(linear, kPageSize) ? entry.host(linear) : nullptr;
}

uint32_t port_read(Cpu& cpu, Port port, Width width) {
  uint32_t value = static_cast<uint32_t>(all_ones(width));
  if (cpu.env->local_io != nullptr && cpu.env->local_io->pio_read(port, width, value)) return value;
  return cpu.env->io != nullptr ? cpu.env->io->pio_read(port, width) : value;
}

void port_write(Cpu& cpu, Port port, Width width, uint32_t value) {
  if (cpu.env->local_io != nullptr && cpu.env->local_io->pio_write(port, width, value)) return;
  if (cpu.env->io != nullptr) cpu.env->io->pio_write(port, width, value);
}

}  // namespace trapeze::soft
