// Insn: one guest instruction, decoded, as both executors use it; 32 bytes, two to a cache line.
//
// `Decoded` is the decoder's whole answer and lives only while a block is built; exec::bind() turns
// it into an Insn with a handler.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

struct Insn;
// Runs the instruction and, where it ends with Step::Next, all behind it to the end of the block.
using Handler = void (*)(Cpu& cpu, const Insn* insn);

enum InsnFlag : uint8_t {
  kLock = 1U << 0,
  kRep = 1U << 1,          // F3 as a repeat prefix (REP, REPE)
  kRepne = 1U << 2,        // F2 as a repeat prefix
  kSlowAddress = 1U << 3,  // the address needs more than base + index * scale + disp: FS, GS, 32-
                           // or 16-bit addresses, or any segment outside 64-bit mode
  kAddress32 = 1U << 4,    // address size; neither bit: 64
  kAddress16 = 1U << 5,
  kNotCode64 = 1U << 6,  // 16- or 32-bit code: stack and branch width, segment checks
};

struct Insn {
  Handler run = nullptr;
  union {
    struct {
      int32_t disp;  // of the memory operand; for [rip+x] relative to the block's start (kRipReg)
      int32_t imm;   // the immediate, sign-extended from its encoded size
    };
    int64_t imm64 = 0;  // instructions without a memory operand: the immediate, the target of a
                        // relative branch from the block's start, or (moffs) the absolute address
  };
  uint16_t start = 0;  // offset of the first byte from the block's first byte
  uint8_t length = 0;
  // Registers: byte offset in Cpu::gpr for general registers, number for all others.
  uint8_t dst = 0;                                    // explicit operand 0, where it is a register
  uint8_t src = 0;                                    // explicit operand 1, where it is a register
  uint8_t base = kZeroReg * 8, index = kZeroReg * 8;  // byte offsets in Cpu::gpr
  uint8_t scale = 0;                                  // shift count 0..3
  uint8_t seg = kDs;      // SegIndex of the memory operand, default or overridden
  uint8_t flags = 0;      // InsnFlag
  uint8_t width = 0;      // operand size in bytes
  uint8_t aux = 0;        // free for the class: condition, third register, second immediate
  uint16_t mnemonic = 0;  // ZydisMnemonic
};
static_assert(sizeof(Insn) == 32);

struct Decoded {
  ZydisDecodedInstruction zy;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  CodeSize code_size;
  Insn insn;  // everything but `run`

  bool is_mem(unsigned i) const {
    return i < zy.operand_count_visible && operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY;
  }
  bool is_reg(unsigned i) const {
    return i < zy.operand_count_visible && operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER;
  }
  bool is_imm(unsigned i) const {
    return i < zy.operand_count_visible && operands[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
  }
  // Size in bytes of visible operand i.
  unsigned size(unsigned i) const { return operands[i].size / 8U; }
};

inline uint64_t insn_rip(const Cpu& cpu, const Insn& insn) { return cpu.gpr[kRipReg] + insn.start; }
inline uint64_t next_rip(const Cpu& cpu, const Insn& insn) {
  return cpu.gpr[kRipReg] + insn.start + insn.length;
}

}  // namespace trapeze::soft
