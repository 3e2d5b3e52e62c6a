// Program: a case as the generator and the shrinker see it, instruction by instruction.
#pragma once

#include <optional>
#include <vector>

#include "diff/case.h"

namespace trapeze::diff {

// A part of an instruction that depends on where things lie.
enum class Fixup : uint8_t {
  None,
  Relative,  // displacement of a branch to instruction `target`
  Label,     // absolute 32-bit address of instruction `target`
  RipData,   // 32-bit displacement of a RIP-relative operand at `address`
};

// One instruction, or a few that are of use only together (and are then shrunk together).
struct Instruction {
  std::array<uint8_t, 40> bytes{};
  uint8_t length = 0;
  Fixup fixup = Fixup::None;
  uint8_t at = 0, size = 0;  // of the field in `bytes`
  size_t target = 0;         // index in the program; its length is the end
  uint64_t address = 0;
};

// What processors may do in their own way, and so is not compared.
struct Tolerance {
  uint64_t flags = 0;        // undefined ones
  bool fpu_stack = false;    // x87 TOP and tags, when it ends in a fault
  bool cr2_in_page = false;  // which byte of the page was found missing first
  bool sum_flags = false;    // MXCSR's flags, when it ends in #XM
  bool below_stack = false;  // the slot below RSP, when it ends in a fault
};

struct Program {
  Registers start;
  uint32_t background = 0;
  std::vector<Instruction> code;
  Tolerance tolerance;
};

Case assemble(const Program& program);
// Without instruction `index`; branches to it go to the one behind.
Program without(const Program& program, size_t index);
// Each instruction on a line, with its address.
std::string disassemble(const Program& program);

}  // namespace trapeze::diff
