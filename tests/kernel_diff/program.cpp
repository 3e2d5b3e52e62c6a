#include "kernel_diff/program.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <random>

#include "accel/soft/testing/machine.h"
#include "base/check.h"
#include "kernel_diff/emitter.h"
#include "kernel_diff/layout.h"

namespace trapeze::kernel_diff {

Program random_program(uint64_t seed) {
  std::mt19937_64 engine(seed);
  Program program;
  program.seed = seed;
  program.level3 = soft::TestMachine::host_has_level3();
  program.smap = engine() % 4 == 0;
  program.pcids = engine() % 3 == 0;
  program.global_pages = engine() % 2 == 0;
  const size_t count = 8 + engine() % 60;
  for (size_t i = 0; i < count; ++i) program.items.push_back({engine()});
  return program;
}

Image assemble(const Program& program) {
  Image image;
  image.code.resize(kCodeBytes);
  Emitter emitter(program, image.code);
  std::vector<size_t> starts;
  emitter.emit(starts);
  CHECK(Xbyak::GetError() == Xbyak::ERR_NONE);
  image.code.resize(emitter.getSize());
  image.skips.assign(kCodeBytes, static_cast<uint16_t>(starts.back()));
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    for (size_t at = starts[i]; at < starts[i + 1]; ++at) {
      image.skips[at] = static_cast<uint16_t>(starts[i + 1]);
    }
  }
  return image;
}

std::string describe(const Program& program) {
  return fmt::format("seed {}{}{}{}\n", program.seed, program.smap ? ", SMAP" : "",
                     program.pcids ? ", PCIDs" : "", program.global_pages ? ", global pages" : "");
}

std::string disassemble(const Image& image) {
  ZydisDecoder decoder;
  ZydisFormatter formatter;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  std::string text;
  for (size_t at = 0; at < image.code.size();) {
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    char words[128] = "(byte)";
    size_t length = 1;
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, image.code.data() + at,
                                            image.code.size() - at, &decoded, operands))) {
      length = decoded.length;
      ZydisFormatterFormatInstruction(&formatter, &decoded, operands, decoded.operand_count_visible,
                                      words, sizeof(words), kCode + at, nullptr);
    }
    text += fmt::format("  {:x}: {}\n", kCode + at, words);
    at += length;
  }
  return text;
}

}  // namespace trapeze::kernel_diff
