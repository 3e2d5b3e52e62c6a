#include "accel/soft/decode/decoder.h"

#include "base/check.h"

namespace trapeze::soft {
namespace {

ZydisDecoder make_decoder(ZydisMachineMode mode, ZydisStackWidth stack, const CpuModel& model) {
  ZydisDecoder decoder;
  CHECK(ZYAN_SUCCESS(ZydisDecoderInit(&decoder, mode, stack)));
  // Without these extensions the encodings are no-ops or the older instruction.
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_LZCNT, model.has(Feature::Abm));
  ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_TZCNT, model.has(Feature::Bmi1));
  return decoder;
}

uint8_t register_slot(ZydisRegister reg) {
  const ZydisRegisterClass kind = ZydisRegisterGetClass(reg);
  if (kind == ZYDIS_REGCLASS_GPR8 || kind == ZYDIS_REGCLASS_GPR16 || kind == ZYDIS_REGCLASS_GPR32 ||
      kind == ZYDIS_REGCLASS_GPR64) {
    return gpr_slot(reg);
  }
  const ZyanI8 id = ZydisRegisterGetId(reg);
  return id < 0 ? uint8_t{0} : static_cast<uint8_t>(id);
}

uint8_t segment_index(ZydisRegister reg, CodeSize code_size) {
  const auto index = static_cast<uint8_t>(ZydisRegisterGetId(reg));  // ES CS SS DS FS GS
  // In 64-bit mode ES, CS and DS overrides mean nothing; SS still decides #SS against #GP.
  const bool plain = index == kEs || index == kCs || index == kDs;
  return code_size == CodeSize::Code64 && plain ? uint8_t{kDs} : index;
}

// With ModRM.mod 0 and SIB.base 5 there is no base but a 32-bit displacement, whatever REX.B says
// (SDM 2A table 2-3); Zydis 4.0.0 takes R13 for the base when REX.B is set.
void correct_base(ZydisDecodedOperand& operand, const ZydisDecodedInstruction& zy) {
  if ((zy.attributes & ZYDIS_ATTRIB_HAS_SIB) == 0) return;
  if (zy.raw.modrm.mod != 0 || zy.raw.sib.base != 5) return;
  operand.mem.base = ZYDIS_REGISTER_NONE;
  operand.mem.disp.has_displacement = ZYAN_TRUE;
  operand.mem.disp.value = zy.raw.disp.value;
}

void fill_memory(const ZydisDecodedOperand& operand, uint64_t end, Decoded& out) {
  Insn& insn = out.insn;
  const auto& mem = operand.mem;
  insn.seg = segment_index(mem.segment, out.code_size);
  int64_t disp = mem.disp.has_displacement ? mem.disp.value : 0;
  if (mem.base == ZYDIS_REGISTER_RIP || mem.base == ZYDIS_REGISTER_EIP) {
    insn.base = kRipReg * 8;
    disp += static_cast<int64_t>(end);  // wraps only within a page of +2 GiB: no program does that
  } else if (mem.base != ZYDIS_REGISTER_NONE) {
    insn.base = gpr_slot(mem.base);
  }
  if (mem.index != ZYDIS_REGISTER_NONE) {
    insn.index = gpr_slot(mem.index);
    insn.scale = static_cast<uint8_t>(__builtin_ctz(mem.scale | 0x100U) & 7);
  }
  if (out.zy.raw.disp.size == 64) {
    insn.imm64 = disp;  // MOV with a 64-bit offset: it has no immediate
  } else {
    insn.disp = static_cast<int32_t>(disp);
  }
  const bool segmented = out.code_size != CodeSize::Code64 || insn.seg == kFs || insn.seg == kGs;
  if (segmented || out.zy.address_width != 64) insn.flags |= kSlowAddress;
}

uint8_t prefix_flags(const Decoded& out) {
  uint8_t flags = 0;
  const ZydisInstructionAttributes attributes = out.zy.attributes;
  if ((attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0) flags |= kLock;
  if ((attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE)) != 0) flags |= kRep;
  if ((attributes & ZYDIS_ATTRIB_HAS_REPNE) != 0) flags |= kRepne;
  if (out.zy.address_width == 32) flags |= kAddress32;
  if (out.zy.address_width == 16) flags |= kAddress16;
  if (out.code_size != CodeSize::Code64) flags |= kNotCode64;
  return flags;
}

}  // namespace

uint8_t gpr_slot(ZydisRegister reg) {
  if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15B) {
    const unsigned n = reg - ZYDIS_REGISTER_AL;  // AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B ...
    if (n < 4) return static_cast<uint8_t>(n * 8);
    if (n < 8) return static_cast<uint8_t>((n - 4) * 8 + 1);
    return static_cast<uint8_t>((n - 4) * 8);
  }
  const ZyanI8 id = ZydisRegisterGetId(reg);
  DCHECK(id >= 0 && id < 16);
  return static_cast<uint8_t>(id * 8);
}

Decoder::Decoder(const CpuModel& model)
    : decoders_{
          make_decoder(ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, model),
          make_decoder(ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, model),
          make_decoder(ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, model),
      } {}

DecodeStatus Decoder::decode(CodeSize code_size, std::span<const uint8_t> bytes, uint16_t start,
                             Decoded& out) const {
  const ZyanStatus status =
      ZydisDecoderDecodeFull(&decoders_[static_cast<unsigned>(code_size)], bytes.data(),
                             bytes.size(), &out.zy, out.operands);
  if (status == ZYDIS_STATUS_NO_MORE_DATA) {
    return bytes.size() >= ZYDIS_MAX_INSTRUCTION_LENGTH ? DecodeStatus::TooLong
                                                        : DecodeStatus::NeedMore;
  }
  if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) return DecodeStatus::TooLong;
  if (!ZYAN_SUCCESS(status)) return DecodeStatus::Invalid;

  out.code_size = code_size;
  Insn& insn = out.insn;
  insn = Insn{};
  insn.start = start;
  insn.length = out.zy.length;
  insn.mnemonic = static_cast<uint16_t>(out.zy.mnemonic);
  insn.width = static_cast<uint8_t>(out.zy.operand_width / 8);
  insn.flags = prefix_flags(out);
  const uint64_t end = uint64_t{start} + out.zy.length;
  bool has_memory = false;
  for (unsigned i = 0; i < out.zy.operand_count_visible; ++i) {
    if (out.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && !has_memory) {
      has_memory = true;
      correct_base(out.operands[i], out.zy);
      fill_memory(out.operands[i], end, out);
    }
  }
  for (unsigned i = 0; i < out.zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = out.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && i < 2) {
      (i == 0 ? insn.dst : insn.src) = register_slot(operand.reg.value);
    } else if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
      const int64_t value = operand.imm.value.s;
      if (has_memory) {
        insn.imm = static_cast<int32_t>(value);
      } else {
        insn.imm64 = operand.imm.is_relative ? value + static_cast<int64_t>(end) : value;
      }
    }
  }
  return DecodeStatus::Ok;
}

}  // namespace trapeze::soft
