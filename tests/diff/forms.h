// Forms: every instruction that cases are made of, found by asking the decoder about all opcodes.
//
// A form is one combination of mnemonic, operand kinds and operand sizes. What the CPU model does
// not offer, and what cannot be compared between a process and the guest, is left out.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "accel/soft/decode/decoder.h"

namespace trapeze::diff {

enum class Group : uint8_t { Integer, String, Branch, Privileged, X87, Mmx, Sse, Avx, Bmi };
inline constexpr size_t kGroups = 9;

// The CPU model whose instructions are compared: x86-64-v3 where the host can run it, else the
// default. The decoder leaves out what it does not have.
const char* compared_model();

struct Form {
  uint8_t prefix = 0;  // 0, 66, F2 or F3
  bool rex_w = false;
  bool vex = false;  // then prefix and rex_w stand for VEX.pp and VEX.W
  bool vex_l = false;
  uint8_t map = 0;  // 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A
  uint8_t opcode = 0;
  bool has_modrm = false;
  uint8_t modrm = 0;
  bool memory = false;  // has a memory operand by ModRM
  Group group = Group::Integer;
  uint64_t key = 0;  // equal keys: the same form
};

// What VEX adds to an encoding; vvvv is not inverted.
struct VexFields {
  uint8_t vvvv = 0;
  bool may_be_short = false;  // the two-byte form
};
inline constexpr uint8_t kVectorIndexSib = 0x23;  // [rbx + xmm4]
// Prefix, REX or VEX, map and opcode; returns their number. `rex`: bits R, X, B and W, and 0x40
// where there is to be one.
size_t put_opcode(const Form& form, uint8_t rex, const VexFields& vex, uint8_t* bytes);

class Forms {
 public:
  Forms();
  std::span<const Form> all() const { return forms_; }
  std::optional<soft::Decoded> decode(std::span<const uint8_t> bytes) const;
  // The key of the decoded instruction's form; 0 when it is not to be used.
  uint64_t key(const soft::Decoded& decoded) const;

 private:
  void add_opcode(Form form);

  CpuModel model_;
  soft::Decoder decoder_;
  std::vector<Form> forms_;
};

// The flags that the instruction leaves undefined and that hosts give differently by how it is
// encoded; all others are the host's own even where the manual leaves them undefined.
uint64_t undefined_flags(const soft::Decoded& decoded);

// What a dot product raises between its multiplications and additions cannot be told when an
// exception is unmasked (accel/soft/exec/sse_float.h).
bool has_inner_flags(const soft::Decoded& decoded);

// A register's general register number, or 16 when it is none.
unsigned gpr_number(ZydisRegister reg);

}  // namespace trapeze::diff
