// Page tables, address spaces, and what the control registers make of rights.
#include "base/check.h"
#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

// Another page-table entry, and what makes it known. With PCIDs it has to be made known to the
// address space that it is of, for a switch may keep what the TLB holds of that; without, the other
// address space's entry is fresh after the switch, and its stale one must not be seen.
void Emitter::map_page() {
  const auto page = static_cast<uint64_t>(random_.below(kWindowPages));
  const bool in_b = random_.percent(40);
  const uint64_t slot = (in_b ? kWindowTableB : kWindowTableA) + page * 8;
  uint64_t entry = kFrames + static_cast<uint64_t>(random_.below(kWindowPages)) * kPage;
  entry |= random_.percent(75) ? 1 : 0;
  entry |= random_.percent(70) ? 2 : 0;
  entry |= random_.percent(50) ? 4 : 0;
  if (random_.percent(30)) entry |= uint64_t{1} << 63;
  mov(rax, entry);
  mov(ptr[reinterpret_cast<void*>(slot)], rax);
  const uint64_t linear = kWindow + page * kPage + 8;
  const bool one = random_.percent(70);
  if (one && program_.pcids) {
    invpcid(0, in_b ? kPcidB : kPcidA, linear);
  } else if (one) {
    mov(rbx, linear);
    invlpg(rbx);
  } else if (program_.pcids && random_.percent(50)) {
    invpcid(1 + random_.bits() % 3, in_b ? kPcidB : kPcidA, 0);
  } else {
    load_cr3(in_b, false);
  }
}

void Emitter::invlpg(const Reg64& reg) {
  CHECK(reg.getIdx() == 3);
  db(0x0f);
  db(0x01);
  db(0x3b);
}

void Emitter::invpcid(uint64_t type, uint64_t pcid, uint64_t linear) {
  mov(rbx, kDescriptor);
  mov(rax, pcid);
  mov(ptr[rbx], rax);
  mov(rax, linear);
  mov(ptr[rbx + 8], rax);
  mov(rax, type);
  for (const int next : {0x66, 0x0f, 0x38, 0x82, 0x03}) db(next);  // invpcid rax, [rbx]
}

void Emitter::move_rax(int control_register, bool to) {
  db(0x0f);
  db(to ? 0x22 : 0x20);
  db(0xc0 | control_register << 3);
}

void Emitter::load_cr3(bool b, bool keep) {
  uint64_t value = b ? kPml4B : kPml4A;
  if (program_.pcids) {
    value |= b ? kPcidB : kPcidA;
    if (keep) value |= uint64_t{1} << 63;
  }
  mov(rax, value);
  move_rax(3, true);
}

void Emitter::switch_tables() {
  const bool b = random_.percent(50);
  load_cr3(b, random_.percent(60));
}

void Emitter::invalidate() {
  mov(rbx, window_address());
  invlpg(rbx);
}

// CR0.WP, CR0.TS, CR4.SMAP or CR4.PGE the other way.
void Emitter::change_rights() {
  struct Bit {
    int control_register;
    uint8_t bit;
  };
  static constexpr Bit kBits[] = {{0, 16}, {0, 3}, {4, 21}, {4, 7}};
  const int choice = random_.below(5);
  if (choice == 4) {
    db(0x0f);  // clts
    db(0x06);
    return;
  }
  const Bit bit = kBits[choice];
  move_rax(bit.control_register, false);
  btc(rax, bit.bit);
  move_rax(bit.control_register, true);
}

// The window's frames on a large page.
void Emitter::through_alias() {
  const Reg64 base(random_.pick(kPointers));
  mov(base, kAlias + kFrames + static_cast<uint64_t>(random_.below(kWindowPages * kPage - 64)));
  const int count = 1 + random_.below(3);
  for (int i = 0; i < count; ++i) {
    encode(alu_opcode(), value().getIdx(), base.getIdx(), true, random_.below(48));
  }
}

}  // namespace trapeze::kernel_diff
