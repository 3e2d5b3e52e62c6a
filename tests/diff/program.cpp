#include "diff/program.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

namespace trapeze::diff {
namespace {

std::vector<uint64_t> addresses(const Program& program) {
  std::vector<uint64_t> result;
  uint64_t address = program.start.rip;
  for (const Instruction& insn : program.code) {
    result.push_back(address);
    address += insn.length;
  }
  result.push_back(address);
  return result;
}

// A short branch that does not reach goes to the next instruction.
int64_t relative(uint64_t to, uint64_t from, unsigned size) {
  const auto distance = static_cast<int64_t>(to - from);
  return size == 1 && distance > 127 ? 0 : distance;
}

void apply_fixup(Instruction& insn, size_t index, const std::vector<uint64_t>& at) {
  const size_t target = std::min(insn.target, at.size() - 1);
  int64_t value = 0;
  switch (insn.fixup) {
    case Fixup::None:
      return;
    case Fixup::Relative:
      value = relative(at[target], at[index + 1], insn.size);
      break;
    case Fixup::Label:
      value = static_cast<int64_t>(at[target]);
      break;
    case Fixup::RipData:
      value = static_cast<int64_t>(insn.address - at[index + 1]);
      break;
  }
  std::memcpy(insn.bytes.data() + insn.at, &value, insn.size);
}

std::vector<Instruction> fixed(const Program& program) {
  const std::vector<uint64_t> at = addresses(program);
  std::vector<Instruction> code = program.code;
  for (size_t i = 0; i < code.size(); ++i) apply_fixup(code[i], i, at);
  return code;
}

}  // namespace

Case assemble(const Program& program) {
  Case test;
  test.start = program.start;
  test.background = program.background;
  const uint64_t room = std::min<uint64_t>(kMaxCode, kPage - (program.start.rip & (kPage - 1)));
  for (const Instruction& insn : fixed(program)) {
    for (unsigned i = 0; i < insn.length && test.code_bytes < room; ++i) {
      test.code[test.code_bytes++] = insn.bytes[i];
    }
  }
  return test;
}

Program without(const Program& program, size_t index) {
  Program shorter = program;
  shorter.code.erase(shorter.code.begin() + static_cast<ptrdiff_t>(index));
  for (Instruction& insn : shorter.code) {
    if (insn.target > index) --insn.target;
  }
  return shorter;
}

std::string disassemble(const Program& program) {
  ZydisDecoder decoder;
  ZydisFormatter formatter;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  const std::vector<uint64_t> at = addresses(program);
  std::string text;
  const std::vector<Instruction> code = fixed(program);
  for (size_t i = 0; i < code.size(); ++i) {
    const Instruction& insn = code[i];
    for (size_t done = 0; done < insn.length;) {
      ZydisDecodedInstruction decoded;
      ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
      char words[128] = "(bytes)";
      size_t length = insn.length - done;
      const auto rest = std::span(insn.bytes).subspan(done, length);
      if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, rest.data(), length, &decoded, operands))) {
        length = decoded.length;
        ZydisFormatterFormatInstruction(&formatter, &decoded, operands,
                                        decoded.operand_count_visible, words, sizeof(words),
                                        at[i] + done, nullptr);
      }
      text += fmt::format("  {:x}: {:02x}  {}\n", at[i] + done, fmt::join(rest.first(length), " "),
                          words);
      done += length;
    }
  }
  return text;
}

}  // namespace trapeze::diff
