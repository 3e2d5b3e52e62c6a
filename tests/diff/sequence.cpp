// Generator::sequence: random straight-line code with forward branches.
//
// Four registers point into the data pages and one is a small index; nothing writes them, so that
// memory operands built on them keep hitting.
#include <cstring>
#include <span>

#include "diff/generator.h"

namespace trapeze::diff {
namespace {

constexpr unsigned kPointers[] = {kRbx, kR12, kR13, kR14};
constexpr unsigned kIndex = kR15;
constexpr uint64_t kLastLabel = 1000;  // behind every instruction

bool is_kept(unsigned gpr) {
  if (gpr == kRsp || gpr == kIndex) return true;
  for (const unsigned pointer : kPointers) {
    if (gpr == pointer) return true;
  }
  return false;
}

bool moves_stack(const soft::Decoded& decoded) {
  const ZydisInstructionCategory category = decoded.zy.meta.category;
  return category == ZYDIS_CATEGORY_PUSH || category == ZYDIS_CATEGORY_POP ||
         category == ZYDIS_CATEGORY_CALL;
}

// Would it write a kept register? The stack instructions' own use of RSP is fine.
bool breaks_pointers(const soft::Decoded& decoded) {
  for (unsigned i = 0; i < decoded.zy.operand_count; ++i) {
    const ZydisDecodedOperand& operand = decoded.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER ||
        (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0)
      continue;
    const unsigned gpr = gpr_number(operand.reg.value);
    if (gpr == kRsp && moves_stack(decoded) && i >= decoded.zy.operand_count_visible) continue;
    if (is_kept(gpr)) return true;
  }
  return false;
}

// Instructions whose result differs by what ran before, not by what they are given: the x87 unit's
// pointers to its last instruction and operand. Those that seldom do not fault. And those with
// undefined flags, which later instructions would read.
bool is_unfit(const soft::Decoded& decoded) {
  for (const ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_FNSTENV, ZYDIS_MNEMONIC_FNSAVE, ZYDIS_MNEMONIC_FXSAVE,
        ZYDIS_MNEMONIC_FXSAVE64, ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_FRSTOR,
        ZYDIS_MNEMONIC_LDMXCSR, ZYDIS_MNEMONIC_FLDCW, ZYDIS_MNEMONIC_ENTER, ZYDIS_MNEMONIC_LEAVE,
        ZYDIS_MNEMONIC_XLAT, ZYDIS_MNEMONIC_MASKMOVQ, ZYDIS_MNEMONIC_MASKMOVDQU,
        ZYDIS_MNEMONIC_VLDMXCSR, ZYDIS_MNEMONIC_VMASKMOVDQU}) {
    if (decoded.zy.mnemonic == mnemonic) return true;
  }
  return undefined_flags(decoded) != 0;
}

Instruction raw(std::initializer_list<uint8_t> bytes) {
  Instruction insn;
  for (const uint8_t byte : bytes) insn.bytes[insn.length++] = byte;
  return insn;
}

// MOV r32, imm32
Instruction load(unsigned gpr, uint64_t value) {
  Instruction insn = raw({static_cast<uint8_t>(0xb8 + gpr), 0, 0, 0, 0});
  std::memcpy(insn.bytes.data() + 1, &value, 4);
  return insn;
}

void append(Instruction& to, std::span<const uint8_t> bytes) {
  std::memcpy(to.bytes.data() + to.length, bytes.data(), bytes.size());
  to.length = static_cast<uint8_t>(to.length + bytes.size());
}
void append(Instruction& to, const Instruction& more) {
  append(to, std::span(more.bytes).first(more.length));
}

// `first` has its 32-bit immediate at byte 1: the address of the label.
Instruction to_label(Instruction first, const Instruction& then, size_t target) {
  append(first, then);
  first.fixup = Fixup::Label;
  first.at = 1;
  first.size = 4;
  first.target = target;
  return first;
}

}  // namespace

// Makes the memory operand one that hits; false when its form does not allow it.
bool Generator::fit_memory(Encoded& encoded) {
  const soft::Decoded& decoded = encoded.decoded;
  for (unsigned i = 0; i < decoded.zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = decoded.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (operand.mem.type == ZYDIS_MEMOP_TYPE_VSIB) return false;
    if (operand.mem.type != ZYDIS_MEMOP_TYPE_MEM) continue;
    if ((decoded.zy.attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS) != 0) return false;
    const bool aligned = operand.size >= 128 || decoded.zy.mnemonic == ZYDIS_MNEMONIC_XCHG ||
                         (decoded.zy.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0;
    const uint64_t align = aligned ? ~uint64_t{operand.size >= 256 ? 31U : 15U} : ~uint64_t{0};
    const auto& raw_disp = decoded.zy.raw.disp;
    if (operand.mem.base == ZYDIS_REGISTER_RIP) {
      encoded.insn.fixup = Fixup::RipData;
      encoded.insn.at = raw_disp.offset;
      encoded.insn.size = 4;
      encoded.insn.address = (kData + 64 + random_.below(2 * kPage - 192)) & align;
      continue;
    }
    const unsigned base = gpr_number(operand.mem.base);
    bool pointer = false;
    for (const unsigned candidate : kPointers) pointer = pointer || candidate == base;
    const bool indexed = operand.mem.index != ZYDIS_REGISTER_NONE;
    if (!pointer || (indexed && gpr_number(operand.mem.index) != kIndex)) return false;
    const uint64_t displacement = (random_.below(0x100) - 0x80) & align;
    std::memcpy(encoded.insn.bytes.data() + raw_disp.offset, &displacement, raw_disp.size / 8U);
    // A bit offset in a register may reach anywhere.
    if (decoded.zy.meta.category == ZYDIS_CATEGORY_BITBYTE && decoded.is_reg(1)) return false;
  }
  return true;
}

void Generator::add_random(Program& program) {
  const uint64_t kind = random_.below(100);
  const bool has_avx = !by_group_[static_cast<size_t>(Group::Avx)].empty();
  const Group group = has_avx && kind < 14   ? Group::Avx
                      : has_avx && kind < 18 ? Group::Bmi
                      : kind < 66            ? Group::Integer
                      : kind < 76            ? Group::Branch
                      : kind < 88            ? Group::Sse
                      : kind < 94            ? Group::X87
                                             : Group::Mmx;
  const auto& forms = by_group_[static_cast<size_t>(group)];
  for (unsigned i = 0; i < 60; ++i) {
    const Form& form = *forms[random_.below(forms.size())];
    Encoded encoded = encode(form, true);
    if (!encoded.usable || is_unfit(encoded.decoded) || breaks_pointers(encoded.decoded)) continue;
    if (group == Group::Branch) {
      const soft::Decoded& decoded = encoded.decoded;
      if (!decoded.is_imm(0) || !decoded.operands[0].imm.is_relative) continue;
      encoded.insn.fixup = Fixup::Relative;
      encoded.insn.at = decoded.zy.raw.imm[0].offset;
      encoded.insn.size = static_cast<uint8_t>(decoded.zy.raw.imm[0].size / 8U);
      encoded.insn.target = program.code.size() + 1 + random_.below(4);
    } else if (!fit_memory(encoded)) {
      // Few of the random encodings use the pointers; prefer forms without memory to giving up.
      continue;
    }
    const bool divides = encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_DIV ||
                         encoded.decoded.zy.mnemonic == ZYDIS_MNEMONIC_IDIV;
    if (divides && random_.percent(90)) continue;
    program.tolerance.sum_flags |= has_inner_flags(encoded.decoded);
    program.code.push_back(encoded.insn);
    return;
  }
}

void Generator::add_string(Program& program) {
  Instruction chunk = load(kRsi, pick_target(8, false));
  append(chunk, load(kRdi, pick_target(8, false)));
  append(chunk, load(kRcx, random_.below(40)));
  append(chunk, raw({static_cast<uint8_t>(random_.percent(25) ? 0xfd : 0xfc)}));
  const auto& forms = by_group_[static_cast<size_t>(Group::String)];
  const Encoded encoded = encode(*forms[random_.below(forms.size())], true);
  if (!encoded.usable) return;
  append(chunk, encoded.insn);
  program.code.push_back(chunk);
}

// Indirect jumps and calls, and returns, to a label.
void Generator::add_jump(Program& program) {
  const size_t target = program.code.size() + 1 + random_.below(4);
  switch (random_.below(3)) {
    case 0:  // push imm32; ret
      program.code.push_back(to_label(raw({0x68, 0, 0, 0, 0}), raw({0xc3}), target));
      break;
    case 1:  // mov eax, imm32; jmp rax
      program.code.push_back(to_label(load(kRax, 0), raw({0xff, 0xe0}), target));
      break;
    default:  // mov edx, imm32; call rdx
      program.code.push_back(to_label(load(kRdx, 0), raw({0xff, 0xd2}), target));
      break;
  }
}

void Generator::add_popf(Program& program) {
  Instruction chunk = raw({0x68, 0, 0, 0, 0, 0x9d});  // push imm32; popf
  const uint64_t flags = random_flags(random_);
  std::memcpy(chunk.bytes.data() + 1, &flags, 4);
  program.code.push_back(chunk);
}

Program Generator::sequence() {
  Program program;
  program.start = random_registers();
  program.background = static_cast<uint32_t>(random_.below(kBackgrounds));
  program.tolerance.fpu_stack = true;
  for (const unsigned pointer : kPointers) {
    program.start.gpr[pointer] = (kData + 0x400 + random_.below(0x1800)) & ~uint64_t{31};
  }
  program.start.gpr[kIndex] = 32 * random_.below(6);
  const size_t length = 2 + random_.below(23);
  while (program.code.size() < length) {
    const uint64_t kind = random_.below(100);
    if (kind < 4)
      add_string(program);
    else if (kind < 8)
      add_jump(program);
    else if (kind < 10)
      add_popf(program);
    else
      add_random(program);
  }
  for (Instruction& insn : program.code) {
    if (insn.target > program.code.size()) insn.target = kLastLabel;
  }
  return program;
}

}  // namespace trapeze::diff
