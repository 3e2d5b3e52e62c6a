// Descriptor table registers and the instructions that drop translations and caches.
#include "accel/soft/core/env.h"
#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/control.h"
#include "accel/soft/system/instructions.h"

namespace trapeze::soft::system {
namespace {

// Size of the base in memory: 8 in 64-bit mode, else 4.
unsigned base_size(const Cpu& cpu) { return is_code64(cpu) ? 8 : 4; }

Step load_table(Cpu& cpu, const Insn& insn, DescriptorTable& table) {
  if (!require_cpl0(cpu)) return Step::Fault;
  const unsigned size = base_size(cpu);
  uint64_t linear = 0, base = 0;
  uint16_t limit = 0;
  if (!linear_address(cpu, insn, 2U + size, Access::Read, linear)) return Step::Fault;
  if (!read_linear(cpu, linear, limit, insn.seg) ||
      !read_offset(cpu, linear + 2, size, insn.seg, base))
    return Step::Fault;
  if (size == 8 && !is_canonical(cpu, base)) return raise(cpu, kGP, 0);
  if (size == 4 && insn.width == 2) base &= 0xff'ffffU;
  table = {base, limit};
  return Step::Next;
}

Step store_table(Cpu& cpu, const Insn& insn, const DescriptorTable& table) {
  if ((cpu.cr4 & kCr4Umip) != 0 && cpu.cpl != 0) return raise(cpu, kGP, 0);
  const unsigned size = base_size(cpu);
  uint64_t linear = 0;
  if (!linear_address(cpu, insn, 2U + size, Access::Write, linear)) return Step::Fault;
  // Both parts or none.
  if (!probe_write(cpu, linear, 2U + size, insn.seg)) return Step::Fault;
  if (!write_linear(cpu, linear, table.limit, insn.seg)) return Step::Fault;
  const bool ok = size == 8
                      ? write_linear<uint64_t>(cpu, linear + 2, table.base, insn.seg)
                      : write_linear(cpu, linear + 2, static_cast<uint32_t>(table.base), insn.seg);
  return ok ? Step::Next : Step::Fault;
}

}  // namespace

Step lgdt(Cpu& cpu, const Insn& insn) { return load_table(cpu, insn, cpu.gdtr); }
Step lidt(Cpu& cpu, const Insn& insn) { return load_table(cpu, insn, cpu.idtr); }
Step sgdt(Cpu& cpu, const Insn& insn) { return store_table(cpu, insn, cpu.gdtr); }
Step sidt(Cpu& cpu, const Insn& insn) { return store_table(cpu, insn, cpu.idtr); }

Step invlpg(Cpu& cpu, const Insn& insn) {
  if (!require_cpl0(cpu)) return Step::Fault;
  // No access is made: no limit, canonical or type check (SDM 2A "INVLPG").
  uint64_t linear = effective_address(cpu, insn) + cpu.linear_base[insn.seg];
  if (!is_code64(cpu)) linear &= 0xffff'ffffU;
  if (is_canonical(cpu, linear)) flush_page(cpu, linear);
  return Step::EndBlock;
}

Step invpcid(Cpu& cpu, const Insn& insn) {
  if (!require_cpl0(cpu)) return Step::Fault;
  uint64_t type = reg<uint64_t>(cpu, insn.dst);
  if (!is_code64(cpu)) type &= 0xffff'ffffU;
  Bytes16 descriptor{};
  if (!load(cpu, insn, descriptor)) return Step::Fault;
  const uint64_t pcid = descriptor.lo & 0xfffU;
  if (type > 3) return raise(cpu, kGP, 0);
  if (type != 2 && type != 3 && (descriptor.lo >> 12) != 0) return raise(cpu, kGP, 0);
  const bool pcide = (cpu.cr4 & kCr4Pcide) != 0;
  if (type < 2 && !pcide && pcid != 0) return raise(cpu, kGP, 0);
  if (type == 0 && !is_canonical(cpu, descriptor.hi)) return raise(cpu, kGP, 0);
  soft::invpcid(cpu, static_cast<unsigned>(type), pcid, descriptor.hi);
  return Step::EndBlock;
}

// Guest caches are the host's, which are coherent: nothing to do.
Step invd(Cpu& cpu, const Insn&) { return require_cpl0(cpu) ? Step::Next : Step::Fault; }

}  // namespace trapeze::soft::system
