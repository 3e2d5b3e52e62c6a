#include "accel/soft/translator/assembler.h"

namespace trapeze::soft {

void Assembler::begin(const Encoding& encoding, uint8_t r, uint8_t x, uint8_t b) {
  if (encoding.lock) db(0xf0);
  if (encoding.operand_size) db(0x66);
  if (encoding.repne) db(0xf2);
  if (encoding.rep) db(0xf3);
  const unsigned rex =
      (encoding.rex_w ? 8U : 0U) | ((r >> 3) & 1U) << 2 | ((x >> 3) & 1U) << 1 | ((b >> 3) & 1U);
  if (!encoding.no_rex && (rex != 0 || encoding.any_rex)) db(0x40 | rex);
  if (encoding.map != 0) db(0x0f);
  if (encoding.map == 2) db(0x38);
  if (encoding.map == 3) db(0x3a);
}

void Assembler::end(const Encoding& encoding) {
  for (const uint8_t value : encoding.immediate) db(value);
}

void Assembler::encode_register(const Encoding& encoding, uint8_t reg, uint8_t rm) {
  begin(encoding, reg, 0, rm);
  db(encoding.opcode);
  db(0xc0U | (reg & 7U) << 3 | (rm & 7U));
  end(encoding);
}

void Assembler::encode_memory(const Encoding& encoding, uint8_t reg, const HostMemory& memory) {
  const bool indexed = memory.index != kNoIndex;
  begin(encoding, reg, indexed ? memory.index : 0, memory.base);
  db(encoding.opcode);
  memory_operand(reg, memory);
  end(encoding);
}

void Assembler::memory_operand(uint8_t reg, const HostMemory& memory) {
  const bool indexed = memory.index != kNoIndex;
  const unsigned base = memory.base & 7U;
  const bool small = memory.disp >= -128 && memory.disp <= 127;
  const bool no_disp = memory.disp == 0 && base != 5;
  const unsigned mod = no_disp ? 0 : (small ? 1U : 2U);
  const bool sib = indexed || base == 4;
  db(mod << 6 | (reg & 7U) << 3 | (sib ? 4U : base));
  if (sib) db((indexed ? memory.index & 7U : 4U) << 3 | base);
  if (mod == 1) db(static_cast<uint8_t>(memory.disp));
  if (mod == 2) dd(static_cast<uint32_t>(memory.disp));
}

void Assembler::encode_slot(const Encoding& encoding, uint8_t reg, size_t offset) {
  db(0x65);
  begin(encoding, reg, 0, 0);
  db(encoding.opcode);
  slot_operand(reg, offset);
  end(encoding);
}

void Assembler::slot_operand(uint8_t reg, size_t offset) {
  db((reg & 7U) << 3 | 4U);  // SIB without base and index: a 32-bit displacement
  db(0x25);
  dd(static_cast<uint32_t>(offset));
}

// The two-byte form where it will do (SDM 2A 2.3.5). R, X, B and vvvv are inverted.
void Assembler::begin_vex(const VexBytes& vex, uint8_t x, uint8_t b) {
  const unsigned r_bit = vex.reg < 8 ? 0x80U : 0;
  const unsigned low = (~unsigned{vex.vvvv} & 15U) << 3 | (vex.l ? 4U : 0U) | vex.pp;
  if (vex.map == 1 && !vex.w && x < 8 && b < 8) {
    db(0xc5);
    db(r_bit | low);
  } else {
    db(0xc4);
    db(r_bit | (x < 8 ? 0x40U : 0U) | (b < 8 ? 0x20U : 0U) | vex.map);
    db((vex.w ? 0x80U : 0U) | low);
  }
  db(vex.opcode);
}

void Assembler::end_vex(const VexBytes& vex) {
  if (vex.has_immediate) db(vex.immediate);
}

void Assembler::encode_vex_register(const VexBytes& vex, uint8_t rm) {
  begin_vex(vex, 0, rm);
  db(0xc0U | (vex.reg & 7U) << 3 | (rm & 7U));
  end_vex(vex);
}

void Assembler::encode_vex_memory(const VexBytes& vex, const HostMemory& memory) {
  begin_vex(vex, memory.index != kNoIndex ? memory.index : 0, memory.base);
  memory_operand(vex.reg, memory);
  end_vex(vex);
}

void Assembler::encode_vex_slot(const VexBytes& vex, size_t offset) {
  db(0x65);
  begin_vex(vex, 0, 0);
  slot_operand(vex.reg, offset);
  end_vex(vex);
}

void Assembler::encode_opcode_register(const Encoding& encoding, uint8_t reg) {
  begin(encoding, 0, 0, reg);
  db((encoding.opcode & 0xf8U) | (reg & 7U));
  end(encoding);
}

void Assembler::encode_plain(const Encoding& encoding) {
  begin(encoding, 0, 0, 0);
  db(encoding.opcode);
  end(encoding);
}

}  // namespace trapeze::soft
