// Emitter: the instructions of a random kernel, item by item.
//
// What it picks depends on the program and an item's seed only, so that the same item gives the
// same instructions when others are left out.
#pragma once

#include <xbyak/xbyak.h>

#include <random>
#include <vector>

#include "kernel_diff/program.h"

// Xbyak takes displacements as size_t; only clang has this in -Wconversion.
#ifdef __clang__
#pragma clang diagnostic ignored "-Wsign-conversion"
#endif

namespace trapeze::kernel_diff {

using Xbyak::Reg64;
using Xbyak::Reg8;
using Xbyak::Xmm;
using Xbyak::Ymm;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  int below(int limit) { return static_cast<int>(engine_() % static_cast<uint64_t>(limit)); }
  bool percent(int chance) { return below(100) < chance; }
  template <size_t N>
  int pick(const int (&list)[N]) {
    return list[below(static_cast<int>(N))];
  }

 private:
  std::mt19937_64 engine_;
};

// What computes, and what points; R9 to R11 are in both, as the translator keeps them in memory.
inline constexpr int kValues[] = {0, 1, 2, 5, 8, 10, 11, 14, 15};
inline constexpr int kPointers[] = {3, 6, 7, 9, 12, 13};

class Emitter : public Xbyak::CodeGenerator {
 public:
  Emitter(const Program& program, std::vector<uint8_t>& buffer);

  // `starts`: the offset of each item, and that of the end.
  void emit(std::vector<size_t>& starts);

 private:
  using Emit = void (Emitter::*)();

  void emit_item();

  // --- operands
  Reg64 value() { return Reg64(random_.pick(kValues)); }
  Reg64 pick_new(const Reg64& other);
  uint64_t window_address();
  // A pointer register with an address in the window.
  Reg64 pointer(uint64_t align = 1);
  // `opcode` with ModRM: register `reg` and register or memory `rm`.
  void encode(int opcode, int reg, int rm, bool memory, int32_t disp);
  void modrm(int reg, int rm, bool memory, int32_t disp);
  // ADD to CMP and MOV, either way round.
  int alu_opcode();

  // --- items
  void alu();
  void memory();
  void group();
  void stack();
  void strings();
  void locked();
  void bmi();

  void sse();
  void avx();
  void xsave_area(int extension);
  void x87();

  void map_page();
  void switch_tables();
  void invalidate();
  void change_rights();
  void through_alias();
  void invlpg(const Reg64& reg);
  void invpcid(uint64_t type, uint64_t pcid, uint64_t linear);
  void load_cr3(bool b, bool keep);
  // 0: to RAX, 2: from it.
  void move_rax(int control_register, bool to);

  void flags();
  void stac();
  void clac();
  void to_user();
  void to_kernel();
  void segment();
  void odd();

  void change_next();
  void change_loop();
  void change_through_alias();
  void jump_ahead();
  void loop();
  void call_function();
  void jump_indirect();

  const Program& program_;
  Random random_{0};
  size_t index_ = 0;
  std::vector<Xbyak::Label> labels_;
};

}  // namespace trapeze::kernel_diff
