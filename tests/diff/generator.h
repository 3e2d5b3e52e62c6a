// Generator: random cases of one instruction, and random sequences.
#pragma once

#include "diff/forms.h"
#include "diff/program.h"
#include "diff/values.h"

namespace trapeze::diff {

class Generator {
 public:
  Generator(const Forms& forms, const Backgrounds& backgrounds, uint64_t seed);

  // One instruction of this form on a random state; its memory operands mostly hit the data pages.
  Program single(const Form& form);
  // Straight-line code with forward branches.
  Program sequence();

 private:
  struct Encoded;
  Encoded encode(const Form& form, bool plain);
  Encoded encode_once(const Form& form, bool plain);
  Registers random_registers();

  // single.cpp
  uint64_t pick_target(unsigned size, bool locked);
  bool place_vector_index(Encoded& insn, const ZydisDecodedOperand& operand, Program& program);
  bool place_operands(Encoded& insn, Program& program);
  bool place_visible(Encoded& insn, Program& program);
  void place_implicit(const Encoded& insn, Program& program);
  void meet_condition(const Encoded& insn, Program& program, uint64_t target);

  // sequence.cpp
  void add_random(Program& program);
  void add_string(Program& program);
  void add_jump(Program& program);
  void add_popf(Program& program);
  bool fit_memory(Encoded& insn);

  const Forms& forms_;
  const Backgrounds& backgrounds_;
  Random random_;
  std::vector<std::vector<const Form*>> by_group_;
};

// An instruction as encoded and as the decoder reads it.
struct Generator::Encoded {
  Instruction insn;
  soft::Decoded decoded;
  bool usable = false;
};

}  // namespace trapeze::diff
