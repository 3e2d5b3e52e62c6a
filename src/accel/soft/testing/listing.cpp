#include "accel/soft/testing/listing.h"

#include <Zydis/Zydis.h>
#include <fmt/format.h>

#include <optional>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {
namespace {

struct Name {
  size_t offset;
  const char* text;
};

#define STATE(member) \
  { offsetof(Cpu, translator) + offsetof(TranslatorState, member), #member }
constexpr Name kState[] = {
    {offsetof(Cpu, gpr) + 8 * 9, "gpr.r9"},
    {offsetof(Cpu, gpr) + 8 * 10, "gpr.r10"},
    {offsetof(Cpu, gpr) + 8 * 11, "gpr.r11"},
    {offsetof(Cpu, rflags_system), "rflags_system"},
    {offsetof(Cpu, attention) + Attention::go_offset(), "attention.go"},
    {offsetof(Cpu, irq_window_wanted), "irq_window_wanted"},
    {offsetof(Cpu, kernel_gs_base), "kernel_gs_base"},
    {offsetof(Cpu, linear_base) + 8 * kFs, "fs_base"},
    {offsetof(Cpu, linear_base) + 8 * kGs, "gs_base"},
    STATE(page_mask),
    STATE(aligned_page_mask),
    STATE(aligned_page_mask_32),
    STATE(unaligned_mask_32),
    STATE(avx_absent),
    STATE(unaligned_mask),
    STATE(bit_masks[0]),
    STATE(bit_masks[1]),
    STATE(not_if_mask),
    STATE(pushed_mask),
    STATE(tag),
    STATE(sse_absent),
    STATE(site),
    STATE(spare),
    STATE(x87_absent),
    STATE(x87_masks),
    STATE(page_offset_mask),
    STATE(string_from),
    {offsetof(Cpu, df), "df"},
    {offsetof(Cpu, fpu) + offsetof(FpuState, fip), "fpu.fip"},
    {offsetof(Cpu, fpu) + offsetof(FpuState, fip) + 4, "fpu.fip+4"},
};
#undef STATE

std::optional<std::string> table_name(uint64_t address, const TranslatorTables& tables) {
  struct Array {
    const void* start;
    const char* text;
  };
  for (const FastTlb& tlb : tables.tlb) {
    for (const Array& array :
         {Array{tlb.minus_read, "read_tags"}, Array{tlb.minus_write, "write_tags"},
          Array{tlb.addend, "addends"}}) {
      const uint64_t offset = address - reinterpret_cast<uint64_t>(array.start);
      if (offset >= sizeof(tlb.addend)) continue;
      return offset == 0 ? array.text : fmt::format("{}[{:#x}]", array.text, offset / 8);
    }
  }
  if (address == reinterpret_cast<uint64_t>(tables.jumps.minus_linear)) return "jump_tags";
  if (address == reinterpret_cast<uint64_t>(tables.jumps.code)) return "jump_code";
  return std::nullopt;
}

class Lister {
 public:
  Lister(std::span<const std::byte> code, const TranslatorTables& tables)
      : code_(code), tables_(tables) {
    ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter_, ZYDIS_FORMATTER_STYLE_INTEL);
  }

  std::string list() {
    std::string text;
    for (size_t at = 0; at < code_.size();) {
      ZydisDecodedInstruction decoded;
      ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, code_.data() + at, code_.size() - at,
                                               &decoded, operands))) {
        return text + "  (bytes)\n";
      }
      text += fmt::format("  {:3x}  {}\n", at, line(decoded, operands, at));
      at += decoded.length;
    }
    return text;
  }

 private:
  std::string line(const ZydisDecodedInstruction& decoded, const ZydisDecodedOperand* operands,
                   size_t at) {
    char words[160];
    ZydisFormatterFormatInstruction(&formatter_, &decoded, operands, decoded.operand_count_visible,
                                    words, sizeof(words), at, nullptr);
    std::string text = words;
    if (decoded.raw.imm[0].is_relative) {
      const uint64_t to = at + decoded.length + static_cast<uint64_t>(decoded.raw.imm[0].value.s);
      text = fmt::format("{} {}", ZydisMnemonicGetString(decoded.mnemonic),
                         to < code_.size() ? fmt::format("{:x}", to) : "cold");
    }
    for (unsigned i = 0; i < decoded.operand_count_visible; ++i) {
      const ZydisDecodedOperand& operand = operands[i];
      if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
      if (const auto name = memory_name(operand)) replace(text, operand, *name);
    }
    return text;
  }

  std::optional<std::string> memory_name(const ZydisDecodedOperand& operand) const {
    const auto disp = static_cast<uint64_t>(operand.mem.disp.value);
    if (operand.mem.segment == ZYDIS_REGISTER_GS) {
      for (const Name& name : kState) {
        if (name.offset == disp) return name.text;
      }
      return fmt::format("state+{:#x}", disp);
    }
    return table_name(disp, tables_);
  }

  // The displacement, as the formatter writes it, by its name.
  static void replace(std::string& text, const ZydisDecodedOperand& operand,
                      const std::string& name) {
    const std::string number = fmt::format("0x{:X}", static_cast<uint64_t>(operand.mem.disp.value));
    for (const std::string& written :
         {number, fmt::format("0x{:016X}", static_cast<uint64_t>(operand.mem.disp.value))}) {
      const size_t found = text.find(written);
      if (found == std::string::npos) continue;
      text.replace(found, written.size(), name);
      return;
    }
  }

  const std::span<const std::byte> code_;
  const TranslatorTables& tables_;
  ZydisDecoder decoder_;
  ZydisFormatter formatter_;
};

}  // namespace

std::string list_code(std::span<const std::byte> code, const TranslatorTables& tables) {
  return Lister(code, tables).list();
}

}  // namespace trapeze::soft
