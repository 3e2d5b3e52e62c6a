#include "diff/forms.h"

#include <algorithm>
#include <array>
#include <set>

#include "accel/soft/testing/machine.h"

namespace trapeze::diff {
namespace {

using soft::Decoded;

// x86-64-v3 without what a hypervisor or another CPU mode would be needed for.
constexpr ZydisISASet kComparedSets[] = {
    ZYDIS_ISA_SET_CMOV,   ZYDIS_ISA_SET_CMPXCHG16B,    ZYDIS_ISA_SET_FAT_NOP,
    ZYDIS_ISA_SET_FCMOV,  ZYDIS_ISA_SET_FXSAVE,        ZYDIS_ISA_SET_FXSAVE64,
    ZYDIS_ISA_SET_I186,   ZYDIS_ISA_SET_I286PROTECTED, ZYDIS_ISA_SET_I286REAL,
    ZYDIS_ISA_SET_I386,   ZYDIS_ISA_SET_I486,          ZYDIS_ISA_SET_I486REAL,
    ZYDIS_ISA_SET_I86,    ZYDIS_ISA_SET_LAHF,          ZYDIS_ISA_SET_LONGMODE,
    ZYDIS_ISA_SET_PAUSE,  ZYDIS_ISA_SET_PENTIUMMMX,    ZYDIS_ISA_SET_PENTIUMREAL,
    ZYDIS_ISA_SET_POPCNT, ZYDIS_ISA_SET_PPRO,          ZYDIS_ISA_SET_PREFETCH_NOP,
    ZYDIS_ISA_SET_SSE,    ZYDIS_ISA_SET_SSE2,          ZYDIS_ISA_SET_SSE2MMX,
    ZYDIS_ISA_SET_SSE3,   ZYDIS_ISA_SET_SSE3X87,       ZYDIS_ISA_SET_SSE4,
    ZYDIS_ISA_SET_SSE42,  ZYDIS_ISA_SET_SSEMXCSR,      ZYDIS_ISA_SET_SSE_PREFETCH,
    ZYDIS_ISA_SET_SSSE3,  ZYDIS_ISA_SET_SSSE3MMX,      ZYDIS_ISA_SET_X87,
};

// Answers that are the machine's own, system calls, and what would change the segments or the mode
// under the child process.
constexpr ZydisMnemonic kNotCompared[] = {
    ZYDIS_MNEMONIC_CPUID,   ZYDIS_MNEMONIC_RDTSC,     ZYDIS_MNEMONIC_RDPMC,
    ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_SYSENTER,  ZYDIS_MNEMONIC_SYSRET,
    ZYDIS_MNEMONIC_SYSEXIT, ZYDIS_MNEMONIC_INT,       ZYDIS_MNEMONIC_INT1,
    ZYDIS_MNEMONIC_INT3,    ZYDIS_MNEMONIC_INTO,      ZYDIS_MNEMONIC_IRET,
    ZYDIS_MNEMONIC_IRETD,   ZYDIS_MNEMONIC_IRETQ,     ZYDIS_MNEMONIC_SGDT,
    ZYDIS_MNEMONIC_SIDT,    ZYDIS_MNEMONIC_SLDT,      ZYDIS_MNEMONIC_STR,
    ZYDIS_MNEMONIC_SMSW,    ZYDIS_MNEMONIC_LAR,       ZYDIS_MNEMONIC_LSL,
    ZYDIS_MNEMONIC_VERR,    ZYDIS_MNEMONIC_VERW,      ZYDIS_MNEMONIC_LFS,
    ZYDIS_MNEMONIC_LGS,     ZYDIS_MNEMONIC_LSS,       ZYDIS_MNEMONIC_RSM,
    ZYDIS_MNEMONIC_POPF,    ZYDIS_MNEMONIC_POPFD,     ZYDIS_MNEMONIC_POPFQ,
    ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64,
};

constexpr ZydisISASet kComparedVexSets[] = {
    ZYDIS_ISA_SET_AVX,  ZYDIS_ISA_SET_AVX2, ZYDIS_ISA_SET_AVX2GATHER, ZYDIS_ISA_SET_BMI1,
    ZYDIS_ISA_SET_BMI2, ZYDIS_ISA_SET_F16C, ZYDIS_ISA_SET_FMA,
};

bool is_in(std::span<const ZydisISASet> sets, ZydisISASet set) {
  return std::find(sets.begin(), sets.end(), set) != sets.end();
}

bool writes_segment(const Decoded& decoded) {
  const ZydisDecodedOperand& first = decoded.operands[0];
  return decoded.zy.operand_count_visible > 0 && first.type == ZYDIS_OPERAND_TYPE_REGISTER &&
         (first.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0 &&
         ZydisRegisterGetClass(first.reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

bool is_compared(const Decoded& decoded, const CpuModel& model) {
  const ZydisISASet set = decoded.zy.meta.isa_set;
  if (decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
    return model.has(Feature::Avx) && is_in(kComparedVexSets, set) &&
           decoded.zy.mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ;  // not in x86-64-v3
  }
  const bool offered = is_in(kComparedSets, set) ||
                       (set == ZYDIS_ISA_SET_LZCNT && model.has(Feature::Abm)) ||
                       (set == ZYDIS_ISA_SET_BMI1 && model.has(Feature::Bmi1)) ||
                       (set == ZYDIS_ISA_SET_MOVBE && model.has(Feature::Movbe)) ||
                       (set == ZYDIS_ISA_SET_CLFSH && model.has(Feature::Clfsh));
  return offered && decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
         decoded.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && !writes_segment(decoded) &&
         std::find(std::begin(kNotCompared), std::end(kNotCompared), decoded.zy.mnemonic) ==
             std::end(kNotCompared);
}

Group group_of(const Decoded& decoded) {
  const ZydisInstructionCategory category = decoded.zy.meta.category;
  const ZydisISASet set = decoded.zy.meta.isa_set;
  if (decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
    const bool bmi = set == ZYDIS_ISA_SET_BMI1 || set == ZYDIS_ISA_SET_BMI2;
    return bmi ? Group::Bmi : Group::Avx;
  }
  if ((decoded.zy.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != 0) return Group::Privileged;
  for (const auto kind : {ZYDIS_CATEGORY_IO, ZYDIS_CATEGORY_IOSTRINGOP, ZYDIS_CATEGORY_SYSTEM}) {
    if (category == kind) return Group::Privileged;
  }
  for (const ZydisMnemonic mnemonic : {ZYDIS_MNEMONIC_CLI, ZYDIS_MNEMONIC_STI, ZYDIS_MNEMONIC_UD0,
                                       ZYDIS_MNEMONIC_UD1, ZYDIS_MNEMONIC_UD2}) {
    if (decoded.zy.mnemonic == mnemonic) return Group::Privileged;
  }
  if (category == ZYDIS_CATEGORY_STRINGOP) return Group::String;
  for (const auto kind : {ZYDIS_CATEGORY_COND_BR, ZYDIS_CATEGORY_UNCOND_BR, ZYDIS_CATEGORY_CALL,
                          ZYDIS_CATEGORY_RET}) {
    if (category == kind) return Group::Branch;
  }
  for (const auto kind : {ZYDIS_ISA_SET_X87, ZYDIS_ISA_SET_FCMOV, ZYDIS_ISA_SET_SSE3X87}) {
    if (set == kind) return Group::X87;
  }
  for (unsigned i = 0; i < decoded.zy.operand_count; ++i) {
    if (decoded.operands[i].type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(decoded.operands[i].reg.value);
    if (kind == ZYDIS_REGCLASS_MMX) return Group::Mmx;
    if (kind == ZYDIS_REGCLASS_XMM) return Group::Sse;
  }
  for (const auto kind : {ZYDIS_ISA_SET_FXSAVE, ZYDIS_ISA_SET_FXSAVE64, ZYDIS_ISA_SET_SSEMXCSR}) {
    if (set == kind) return Group::Sse;
  }
  return set == ZYDIS_ISA_SET_PENTIUMMMX ? Group::Mmx : Group::Integer;
}

bool is_prefix(uint8_t opcode) {
  constexpr uint8_t kPrefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
                                   0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x0f};
  return (opcode & 0xf0) == 0x40 ||
         std::find(std::begin(kPrefixes), std::end(kPrefixes), opcode) != std::end(kPrefixes);
}

uint64_t mixed(uint64_t hash, uint64_t value) {
  return (hash ^ value) * 0x9e37'79b9'7f4a'7c15 + (hash >> 29);
}

}  // namespace

uint64_t undefined_flags(const Decoded& decoded) {
  // OF of rotates by other counts than 1 (SDM 2B "RCL/RCR/ROL/ROR").
  for (const ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR, ZYDIS_MNEMONIC_RCL, ZYDIS_MNEMONIC_RCR}) {
    if (decoded.zy.mnemonic == mnemonic && decoded.is_imm(1) &&
        decoded.operands[1].encoding == ZYDIS_OPERAND_ENCODING_UIMM8)
      return soft::kOf;
  }
  return 0;
}

bool has_inner_flags(const Decoded& decoded) {
  for (const ZydisMnemonic mnemonic :
       {ZYDIS_MNEMONIC_DPPS, ZYDIS_MNEMONIC_DPPD, ZYDIS_MNEMONIC_VDPPS, ZYDIS_MNEMONIC_VDPPD}) {
    if (decoded.zy.mnemonic == mnemonic) return true;
  }
  return false;
}

unsigned gpr_number(ZydisRegister reg) {
  const ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(whole) != ZYDIS_REGCLASS_GPR64) return 16;
  return static_cast<unsigned>(ZydisRegisterGetId(whole));
}

const char* compared_model() {
  static const bool has_level3 = soft::TestMachine::host_has_level3();
  return has_level3 ? soft::TestMachine::kLevel3 : CpuModel::names().front().data();
}

Forms::Forms() : model_(CpuModel::create(compared_model(), 1).value()), decoder_(model_) {
  for (unsigned map = 0; map < 4; ++map) {
    for (unsigned opcode = 0; opcode < 256; ++opcode) {
      if (map == 0 && is_prefix(static_cast<uint8_t>(opcode))) continue;
      if (map == 1 && (opcode == 0x38 || opcode == 0x3a || opcode == 0x0f)) continue;
      for (const unsigned prefix : {0U, 0x66U, 0xf2U, 0xf3U}) {
        for (const bool rex_w : {false, true}) {
          Form form;
          form.prefix = static_cast<uint8_t>(prefix);
          form.rex_w = rex_w;
          form.map = static_cast<uint8_t>(map);
          form.opcode = static_cast<uint8_t>(opcode);
          add_opcode(form);
          for (const bool vex_l : {false, true}) {
            form.vex = true;
            form.vex_l = vex_l;
            if (map != 0) add_opcode(form);
          }
        }
      }
    }
  }
  std::set<uint64_t> seen;
  std::erase_if(forms_, [&seen](const Form& form) { return !seen.insert(form.key).second; });
}

size_t put_opcode(const Form& form, uint8_t rex, const VexFields& vex, uint8_t* bytes) {
  size_t at = 0;
  if (form.vex) {
    const unsigned pp = form.prefix == 0      ? 0
                        : form.prefix == 0x66 ? 1
                        : form.prefix == 0xf3 ? 2
                                              : 3;
    const bool wide = form.rex_w || (rex & 8) != 0;
    const unsigned low = (~unsigned{vex.vvvv} & 15) << 3 | (form.vex_l ? 4U : 0U) | pp;
    if (form.map == 1 && !wide && (rex & 3) == 0 && vex.may_be_short) {
      bytes[at++] = 0xc5;
      bytes[at++] = static_cast<uint8_t>((~unsigned{rex} & 4) << 5 | low);
    } else {
      bytes[at++] = 0xc4;
      bytes[at++] = static_cast<uint8_t>((~unsigned{rex} & 7) << 5 | form.map);
      bytes[at++] = static_cast<uint8_t>((wide ? 0x80U : 0U) | low);
    }
  } else {
    if (form.prefix != 0) bytes[at++] = form.prefix;
    if (form.rex_w) rex |= 0x48;
    if (rex != 0) bytes[at++] = rex;
    if (form.map != 0) bytes[at++] = 0x0f;
    if (form.map == 2) bytes[at++] = 0x38;
    if (form.map == 3) bytes[at++] = 0x3a;
  }
  bytes[at++] = form.opcode;
  return at;
}

void Forms::add_opcode(Form form) {
  std::array<uint8_t, 24> bytes{};
  size_t at = 0;
  at = put_opcode(form, 0, VexFields{}, bytes.data());
  for (unsigned modrm = 0; modrm < 256; ++modrm) {
    const unsigned mod = modrm >> 6;
    // Memory: [rbx], and [rsp + ...] for the vector registers of gathers.
    const bool other = (modrm & 7) != 3 && !(form.vex && (modrm & 7) == 4);
    if (mod == 1 || mod == 2 || (mod == 0 && other)) continue;
    bytes[at] = static_cast<uint8_t>(modrm);
    bytes[at + 1] = mod == 0 && (modrm & 7) == 4 ? kVectorIndexSib : 0;
    const std::optional<Decoded> decoded = decode(bytes);
    if (!decoded) continue;
    form.has_modrm = (decoded->zy.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    form.modrm = static_cast<uint8_t>(modrm);
    form.memory = form.has_modrm && mod != 3;
    form.key = key(*decoded);
    if (form.key != 0) {
      form.group = group_of(*decoded);
      forms_.push_back(form);
    }
    if (!form.has_modrm) return;
  }
}

std::optional<Decoded> Forms::decode(std::span<const uint8_t> bytes) const {
  Decoded decoded;
  if (decoder_.decode(soft::CodeSize::Code64, bytes, 0, decoded) != soft::DecodeStatus::Ok)
    return std::nullopt;
  return decoded;
}

uint64_t Forms::key(const Decoded& decoded) const {
  if (!is_compared(decoded, model_)) return 0;
  constexpr ZydisInstructionAttributes kRepeats =
      ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
  uint64_t hash = mixed(decoded.zy.mnemonic, decoded.zy.attributes & kRepeats);
  hash = mixed(hash, decoded.zy.opcode + 256U * decoded.zy.opcode_map);
  for (unsigned i = 0; i < decoded.zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = decoded.operands[i];
    hash = mixed(hash, operand.type + 16U * operand.encoding);
    hash = mixed(hash, operand.size);
  }
  hash = mixed(hash, decoded.zy.operand_width);
  if (decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
    hash = mixed(hash, 2U * decoded.zy.raw.vex.L + 1U);
  }
  return hash | 1;
}

}  // namespace trapeze::diff
