// IN, OUT, INS, OUTS, with IOPL and the TSS's I/O permission bitmap (SDM 1 19.5).
#include "accel/soft/mmu/access.h"
#include "accel/soft/system/debug.h"
#include "accel/soft/system/descriptor.h"
#include "accel/soft/system/instructions.h"

namespace trapeze::soft::system {
namespace {

// True when the current code may access `size` ports from `port`; else a fault is pending.
bool check_permission(Cpu& cpu, uint16_t port, unsigned size) {
  if (!is_protected(cpu) || (!is_vm86(cpu) && cpu.cpl <= iopl(cpu))) return true;
  const unsigned type = cpu.tr.access & 0xfU;
  if ((type != kTypeTss32 && type != kTypeTss32Busy) || cpu.tr.limit < 0x67)
    return fault(cpu, kGP, 0);
  uint16_t map = 0;
  if (!read_system(cpu, cpu.tr.base + 0x66, map)) return false;
  // Two bytes are read, as the ports may straddle a byte of the map.
  const uint32_t offset = map + port / 8U;
  if (offset + 1 > cpu.tr.limit) return fault(cpu, kGP, 0);
  uint16_t bits = 0;
  if (!read_system(cpu, cpu.tr.base + offset, bits)) return false;
  const unsigned mask = ((1U << size) - 1U) << (port % 8U);
  return (bits & mask) == 0 || fault(cpu, kGP, 0);
}

Width width_of(unsigned size) {
  return size == 1 ? Width::Byte : (size == 2 ? Width::Word : Width::Dword);
}

void watch_port(Cpu& cpu, uint16_t port, unsigned size) {
  if ((cpu.dr7 & 0xffU) != 0) [[unlikely]]
    check_io_breakpoint(cpu, port, size);
}

Step in(Cpu& cpu, const Insn& insn, uint16_t port) {
  const unsigned size = insn.aux;
  if (!check_permission(cpu, port, size)) return Step::Fault;
  const uint32_t value = port_read(cpu, Port(port), width_of(size));
  if (size == 1) {
    set_reg<uint8_t>(cpu, kRax * 8, static_cast<uint8_t>(value));
  } else if (size == 2) {
    set_reg<uint16_t>(cpu, kRax * 8, static_cast<uint16_t>(value));
  } else {
    set_reg<uint32_t>(cpu, kRax * 8, value);
  }
  watch_port(cpu, port, size);
  return Step::Next;
}

Step out(Cpu& cpu, const Insn& insn, uint16_t port) {
  const unsigned size = insn.aux;
  if (!check_permission(cpu, port, size)) return Step::Fault;
  const auto value = static_cast<uint32_t>(cpu.gpr[kRax] & all_ones(width_of(size)));
  port_write(cpu, Port(port), width_of(size), value);
  watch_port(cpu, port, size);
  return Step::EndBlock;  // a device may have raised an interrupt, or asked for a reset
}

// --- INS and OUTS
uint64_t address_mask(const Insn& insn) {
  if ((insn.flags & kAddress16) != 0) return 0xffffU;
  if ((insn.flags & kAddress32) != 0) return 0xffff'ffffU;
  return ~uint64_t{0};
}

// Writes a register under the address size: 32-bit writes clear the upper half.
void set_masked(Cpu& cpu, unsigned gpr, uint64_t value, uint64_t mask) {
  cpu.gpr[gpr] = mask == 0xffffU ? (cpu.gpr[gpr] & ~mask) | (value & mask) : value & mask;
}

void advance(Cpu& cpu, unsigned gpr, unsigned size, uint64_t mask) {
  const uint64_t step = cpu.df ? ~uint64_t{size} + 1 : uint64_t{size};
  set_masked(cpu, gpr, cpu.gpr[gpr] + step, mask);
}

bool string_address(Cpu& cpu, uint8_t seg, unsigned gpr, uint64_t mask, unsigned size,
                    Access access, uint64_t& linear) {
  return segment_to_linear(cpu, seg, cpu.gpr[gpr] & mask, size, access, linear);
}

bool ins_once(Cpu& cpu, unsigned size, uint64_t mask) {
  const auto port = static_cast<uint16_t>(cpu.gpr[kRdx]);
  uint64_t linear = 0;
  if (!string_address(cpu, kEs, kRdi, mask, size, Access::Write, linear)) return false;
  // A byte read from a device is gone: make sure first that it can be stored.
  if (!probe_write(cpu, linear, size, kEs)) return false;
  const uint32_t value = port_read(cpu, Port(port), width_of(size));
  bool ok = false;
  if (size == 1) {
    ok = write_linear(cpu, linear, static_cast<uint8_t>(value), kEs);
  } else if (size == 2) {
    ok = write_linear(cpu, linear, static_cast<uint16_t>(value), kEs);
  } else {
    ok = write_linear(cpu, linear, value, kEs);
  }
  if (!ok) return false;
  advance(cpu, kRdi, size, mask);
  watch_port(cpu, port, size);
  return true;
}

bool outs_once(Cpu& cpu, const Insn& insn, unsigned size, uint64_t mask) {
  const auto port = static_cast<uint16_t>(cpu.gpr[kRdx]);
  uint64_t linear = 0;
  if (!string_address(cpu, insn.seg, kRsi, mask, size, Access::Read, linear)) return false;
  uint64_t value = 0;
  if (size == 1) {
    uint8_t byte = 0;
    if (!read_linear(cpu, linear, byte, insn.seg)) return false;
    value = byte;
  } else if (!read_offset(cpu, linear, size, insn.seg, value)) {
    return false;
  }
  port_write(cpu, Port(port), width_of(size), static_cast<uint32_t>(value));
  advance(cpu, kRsi, size, mask);
  watch_port(cpu, port, size);
  return true;
}

template <typename Once>
Step repeat(Cpu& cpu, const Insn& insn, Once&& once) {
  const unsigned size = insn.aux;
  if (!check_permission(cpu, static_cast<uint16_t>(cpu.gpr[kRdx]), size)) return Step::Fault;
  const uint64_t mask = address_mask(insn);
  if ((insn.flags & (kRep | kRepne)) == 0) return once(size, mask) ? Step::EndBlock : Step::Fault;
  while ((cpu.gpr[kRcx] & mask) != 0) {
    if (!once(size, mask)) return Step::Fault;
    set_masked(cpu, kRcx, cpu.gpr[kRcx] - 1, mask);
    // TF traps behind every iteration; interrupts come between them.
    const bool must_stop = cpu.stepping || cpu.attention.load(std::memory_order_relaxed) != 0;
    if (must_stop && (cpu.gpr[kRcx] & mask) != 0) return Step::Restart;
  }
  return Step::EndBlock;
}

}  // namespace

Step in_immediate(Cpu& cpu, const Insn& insn) {
  return in(cpu, insn, static_cast<uint8_t>(insn.imm64));
}
Step in_dx(Cpu& cpu, const Insn& insn) {
  return in(cpu, insn, static_cast<uint16_t>(cpu.gpr[kRdx]));
}
Step out_immediate(Cpu& cpu, const Insn& insn) {
  return out(cpu, insn, static_cast<uint8_t>(insn.imm64));
}
Step out_dx(Cpu& cpu, const Insn& insn) {
  return out(cpu, insn, static_cast<uint16_t>(cpu.gpr[kRdx]));
}

Step ins(Cpu& cpu, const Insn& insn) {
  return repeat(cpu, insn, [&](unsigned size, uint64_t mask) { return ins_once(cpu, size, mask); });
}
Step outs(Cpu& cpu, const Insn& insn) {
  return repeat(cpu, insn,
                [&](unsigned size, uint64_t mask) { return outs_once(cpu, insn, size, mask); });
}

}  // namespace trapeze::soft::system
