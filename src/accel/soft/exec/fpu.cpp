#include "accel/soft/exec/fpu.h"

#include <algorithm>

#include "accel/soft/exec/vector_operands.h"
#include "accel/soft/mmu/mmu.h"

namespace trapeze::soft::exec {
namespace {

// Pieces of a state image; each lies within what slow_read() and slow_write() take at once.
constexpr unsigned kPiece = 16;

bool block_address(Cpu& cpu, const Insn& insn, unsigned size, unsigned align, Access access,
                   uint64_t& linear) {
  if (!linear_address(cpu, insn, size, access, linear)) return false;
  if ((linear & (align - 1)) == 0) return true;
  raise_misaligned(cpu, insn, linear);
  return false;
}

}  // namespace

void raise_sse_unusable(Cpu& cpu) {
  const bool undefined = (cpu.cr0 & kCr0Em) != 0 || (cpu.cr4 & kCr4Osfxsr) == 0;
  raise(cpu, undefined ? kUD : kNM);
}

// With CR0.NE = 0 the processor would assert FERR# and, with IGNNE# asserted, go on; the board
// wires neither pin, as if IGNNE# were active.
bool x87_pending(Cpu& cpu) {
  if ((cpu.fpu.fsw & kFswEs) == 0 || (cpu.cr0 & kCr0Ne) == 0) [[likely]]
    return false;
  raise(cpu, kMF);
  return true;
}

bool x87_usable(Cpu& cpu, bool waiting) {
  if ((cpu.cr0 & (kCr0Em | kCr0Ts)) != 0) [[unlikely]] {
    raise(cpu, kNM);
    return false;
  }
  return !waiting || !x87_pending(cpu);
}

bool mmx_usable(Cpu& cpu) {
  if ((cpu.cr0 & (kCr0Em | kCr0Ts)) != 0) [[unlikely]] {
    raise(cpu, (cpu.cr0 & kCr0Em) != 0 ? kUD : kNM);
    return false;
  }
  return !x87_pending(cpu);
}

void raise_misaligned(Cpu& cpu, const Insn& insn, uint64_t linear) {
  const bool outside = is_long_mode(cpu) && !is_canonical(cpu, linear);
  raise(cpu, outside && insn.seg == kSs ? kSS : kGP, 0);
}

bool load_block(Cpu& cpu, const Insn& insn, void* to, unsigned size, unsigned align) {
  uint64_t linear = 0;
  if (!block_address(cpu, insn, size, align, Access::Read, linear)) return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.read_tag == tag_of(linear, size)) {
    std::memcpy(to, entry.host(linear), size);
    return true;
  }
  for (unsigned at = 0; at < size; at += kPiece) {
    const unsigned piece = std::min(kPiece, size - at);
    if (!slow_read(cpu, linear + at, static_cast<char*>(to) + at, piece, insn.seg)) return false;
  }
  return true;
}

bool store_block(Cpu& cpu, const Insn& insn, const void* from, unsigned size, unsigned align) {
  uint64_t linear = 0;
  if (!block_address(cpu, insn, size, align, Access::Write, linear)) return false;
  const TlbEntry& entry = cpu.tlb->entry(linear);
  if (entry.write_tag == tag_of(linear, size)) {
    std::memcpy(entry.host(linear), from, size);
    return true;
  }
  for (unsigned at = 0; at < size; at += kPiece) {
    if (!probe_write(cpu, linear + at, std::min(kPiece, size - at), insn.seg)) return false;
  }
  for (unsigned at = 0; at < size; at += kPiece) {
    const unsigned piece = std::min(kPiece, size - at);
    if (!slow_write(cpu, linear + at, static_cast<const char*>(from) + at, piece, insn.seg))
      return false;
  }
  return true;
}

}  // namespace trapeze::soft::exec
