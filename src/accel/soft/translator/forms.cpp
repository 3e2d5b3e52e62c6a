#include "accel/soft/translator/forms.h"

#include <array>

namespace trapeze::soft {
namespace {

struct Entry {
  ZydisMnemonic mnemonic;
  Form form;
};

#define PLAIN(name) \
  { ZYDIS_MNEMONIC_##name, Form::Plain }
#define NOTHING(name) \
  { ZYDIS_MNEMONIC_##name, Form::Nothing }
#define JUMP_IF(name) \
  { ZYDIS_MNEMONIC_##name, Form::JumpIf }

constexpr Entry kEntries[] = {
    PLAIN(ADD),
    PLAIN(ADC),
    PLAIN(SUB),
    PLAIN(SBB),
    PLAIN(CMP),
    PLAIN(AND),
    PLAIN(OR),
    PLAIN(XOR),
    PLAIN(TEST),
    PLAIN(NOT),
    PLAIN(NEG),
    PLAIN(INC),
    PLAIN(DEC),
    PLAIN(MOV),
    PLAIN(MOVZX),
    PLAIN(MOVSX),
    PLAIN(MOVSXD),
    PLAIN(SHL),
    PLAIN(SHR),
    PLAIN(SAR),
    PLAIN(ROL),
    PLAIN(ROR),
    PLAIN(RCL),
    PLAIN(RCR),
    PLAIN(SHLD),
    PLAIN(SHRD),
    PLAIN(IMUL),
    PLAIN(MUL),
    PLAIN(BT),
    PLAIN(BTS),
    PLAIN(BTR),
    PLAIN(BTC),
    PLAIN(BSF),
    PLAIN(BSR),
    PLAIN(POPCNT),
    PLAIN(TZCNT),
    PLAIN(LZCNT),
    PLAIN(XCHG),
    PLAIN(XADD),
    PLAIN(CMPXCHG),
    PLAIN(BSWAP),
    PLAIN(CBW),
    PLAIN(CWDE),
    PLAIN(CDQE),
    PLAIN(CWD),
    PLAIN(CDQ),
    PLAIN(CQO),
    PLAIN(MOVBE),
    PLAIN(CRC32),
    PLAIN(LAHF),
    PLAIN(SAHF),
    PLAIN(CLC),
    PLAIN(STC),
    PLAIN(CMC),
    PLAIN(MOVNTI),
    PLAIN(LFENCE),
    PLAIN(MFENCE),
    PLAIN(SFENCE),
    PLAIN(PAUSE),
    PLAIN(CMOVO),
    PLAIN(CMOVNO),
    PLAIN(CMOVB),
    PLAIN(CMOVNB),
    PLAIN(CMOVZ),
    PLAIN(CMOVNZ),
    PLAIN(CMOVBE),
    PLAIN(CMOVNBE),
    PLAIN(CMOVS),
    PLAIN(CMOVNS),
    PLAIN(CMOVP),
    PLAIN(CMOVNP),
    PLAIN(CMOVL),
    PLAIN(CMOVNL),
    PLAIN(CMOVLE),
    PLAIN(CMOVNLE),
    PLAIN(SETO),
    PLAIN(SETNO),
    PLAIN(SETB),
    PLAIN(SETNB),
    PLAIN(SETZ),
    PLAIN(SETNZ),
    PLAIN(SETBE),
    PLAIN(SETNBE),
    PLAIN(SETS),
    PLAIN(SETNS),
    PLAIN(SETP),
    PLAIN(SETNP),
    PLAIN(SETL),
    PLAIN(SETNL),
    PLAIN(SETLE),
    PLAIN(SETNLE),
    JUMP_IF(JO),
    JUMP_IF(JNO),
    JUMP_IF(JB),
    JUMP_IF(JNB),
    JUMP_IF(JZ),
    JUMP_IF(JNZ),
    JUMP_IF(JBE),
    JUMP_IF(JNBE),
    JUMP_IF(JS),
    JUMP_IF(JNS),
    JUMP_IF(JP),
    JUMP_IF(JNP),
    JUMP_IF(JL),
    JUMP_IF(JNL),
    JUMP_IF(JLE),
    JUMP_IF(JNLE),
    NOTHING(NOP),
    NOTHING(PREFETCH),
    NOTHING(PREFETCHNTA),
    NOTHING(PREFETCHT0),
    NOTHING(PREFETCHT1),
    NOTHING(PREFETCHT2),
    NOTHING(PREFETCHW),
    {ZYDIS_MNEMONIC_LEA, Form::Lea},
    {ZYDIS_MNEMONIC_PUSH, Form::Push},
    {ZYDIS_MNEMONIC_POP, Form::Pop},
    {ZYDIS_MNEMONIC_LEAVE, Form::Leave},
    {ZYDIS_MNEMONIC_JMP, Form::Jump},
    {ZYDIS_MNEMONIC_CALL, Form::Call},
    {ZYDIS_MNEMONIC_RET, Form::Return},
    {ZYDIS_MNEMONIC_PUSHFQ, Form::PushFlags},
    {ZYDIS_MNEMONIC_CLI, Form::DisableInterrupts},
    {ZYDIS_MNEMONIC_SWAPGS, Form::SwapGs},
    {ZYDIS_MNEMONIC_STI, Form::EnableInterrupts},
    {ZYDIS_MNEMONIC_CMPXCHG8B, Form::CompareExchangeWide},
    {ZYDIS_MNEMONIC_CMPXCHG16B, Form::CompareExchangeWide},
};

constexpr auto make_table() {
  std::array<Form, ZYDIS_MNEMONIC_MAX_VALUE + 1> table{};
  for (const Entry& entry : kEntries) table[entry.mnemonic] = entry.form;
  return table;
}
constexpr auto kForms = make_table();

bool is_sse(ZydisISASet set) {
  constexpr ZydisISASet kSets[] = {
      ZYDIS_ISA_SET_SSE,  ZYDIS_ISA_SET_SSE2,  ZYDIS_ISA_SET_SSE3, ZYDIS_ISA_SET_SSSE3,
      ZYDIS_ISA_SET_SSE4, ZYDIS_ISA_SET_SSE42, ZYDIS_ISA_SET_AES,  ZYDIS_ISA_SET_PCLMULQDQ,
  };
  for (const ZydisISASet wanted : kSets) {
    if (set == wanted) return true;
  }
  return false;
}

// Those that touch more than XMM and general registers and an explicit operand.
bool is_special_sse(ZydisMnemonic mnemonic) {
  constexpr ZydisMnemonic kSpecial[] = {
      ZYDIS_MNEMONIC_LDMXCSR,    ZYDIS_MNEMONIC_STMXCSR,   ZYDIS_MNEMONIC_FXSAVE,
      ZYDIS_MNEMONIC_FXSAVE64,   ZYDIS_MNEMONIC_FXRSTOR,   ZYDIS_MNEMONIC_FXRSTOR64,
      ZYDIS_MNEMONIC_MASKMOVDQU, ZYDIS_MNEMONIC_PCMPESTRI, ZYDIS_MNEMONIC_PCMPESTRM,
      ZYDIS_MNEMONIC_PCMPISTRI,  ZYDIS_MNEMONIC_PCMPISTRM, ZYDIS_MNEMONIC_MONITOR,
      ZYDIS_MNEMONIC_MWAIT,      ZYDIS_MNEMONIC_CLFLUSH,   ZYDIS_MNEMONIC_FISTTP,
  };
  for (const ZydisMnemonic special : kSpecial) {
    if (mnemonic == special) return true;
  }
  return false;
}

}  // namespace

bool uses_sse_state(const ZydisDecodedInstruction& zy) {
  return kForms[static_cast<size_t>(zy.mnemonic)] == Form::Interpret && is_sse(zy.meta.isa_set) &&
         !is_special_sse(zy.mnemonic);
}

// What touches more than registers and one explicit operand, or not all of that.
bool is_special_vex(ZydisMnemonic mnemonic) {
  constexpr ZydisMnemonic kSpecial[] = {
      ZYDIS_MNEMONIC_VLDMXCSR,   ZYDIS_MNEMONIC_VSTMXCSR,   ZYDIS_MNEMONIC_VMASKMOVDQU,
      ZYDIS_MNEMONIC_VPCMPESTRI, ZYDIS_MNEMONIC_VPCMPESTRM, ZYDIS_MNEMONIC_VPCMPISTRI,
      ZYDIS_MNEMONIC_VPCMPISTRM, ZYDIS_MNEMONIC_VGATHERDPS, ZYDIS_MNEMONIC_VGATHERDPD,
      ZYDIS_MNEMONIC_VGATHERQPS, ZYDIS_MNEMONIC_VGATHERQPD, ZYDIS_MNEMONIC_VPGATHERDD,
      ZYDIS_MNEMONIC_VPGATHERDQ, ZYDIS_MNEMONIC_VPGATHERQD, ZYDIS_MNEMONIC_VPGATHERQQ,
  };
  for (const ZydisMnemonic special : kSpecial) {
    if (mnemonic == special) return true;
  }
  return false;
}

bool is_zeroing(ZydisMnemonic mnemonic) {
  return mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || mnemonic == ZYDIS_MNEMONIC_VZEROALL;
}

bool uses_avx_state(const ZydisDecodedInstruction& zy) {
  return is_vex(zy) && zy.meta.isa_set != ZYDIS_ISA_SET_BMI1 &&
         zy.meta.isa_set != ZYDIS_ISA_SET_BMI2 && !is_special_vex(zy.mnemonic);
}

bool is_masked_move(const ZydisDecodedInstruction& zy) {
  for (const ZydisMnemonic masked : {ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VMASKMOVPD,
                                     ZYDIS_MNEMONIC_VPMASKMOVD, ZYDIS_MNEMONIC_VPMASKMOVQ}) {
    if (zy.mnemonic == masked) return true;
  }
  return false;
}

bool is_aligned_vex(const ZydisDecodedInstruction& zy) {
  return zy.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1;
}

bool is_x87_control(ZydisMnemonic mnemonic) {
  for (const ZydisMnemonic control :
       {ZYDIS_MNEMONIC_FWAIT, ZYDIS_MNEMONIC_FLDCW, ZYDIS_MNEMONIC_FNSTCW, ZYDIS_MNEMONIC_FNSTSW,
        ZYDIS_MNEMONIC_FNCLEX}) {
    if (mnemonic == control) return true;
  }
  return false;
}

bool uses_x87_state(const ZydisDecodedInstruction& zy) {
  if (zy.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
      zy.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT) {
    return false;
  }
  // What has the pointers in it, or sets them; and what does nothing on any CPU since the 387.
  for (const ZydisMnemonic other :
       {ZYDIS_MNEMONIC_FNINIT, ZYDIS_MNEMONIC_FNSTENV, ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_FNSAVE,
        ZYDIS_MNEMONIC_FRSTOR, ZYDIS_MNEMONIC_FENI8087_NOP, ZYDIS_MNEMONIC_FDISI8087_NOP,
        ZYDIS_MNEMONIC_FSETPM287_NOP}) {
    if (zy.mnemonic == other) return false;
  }
  return (zy.opcode >= 0xd8 && zy.opcode <= 0xdf) || zy.mnemonic == ZYDIS_MNEMONIC_FWAIT;
}

bool is_repeated_string(const ZydisDecodedInstruction& zy) {
  if (zy.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || (zy.attributes & ZYDIS_ATTRIB_HAS_REP) == 0) {
    return false;
  }
  const bool moves = zy.opcode == 0xa4 || zy.opcode == 0xa5;
  return moves || zy.opcode == 0xaa || zy.opcode == 0xab;
}

Form form_of(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands) {
  if (is_vex(zy)) {
    // 32-bit code zeroes eight registers, the host all of them.
    const bool other = is_zeroing(zy.mnemonic) && zy.machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
    return other || is_special_vex(zy.mnemonic) ? Form::Interpret : Form::Plain;
  }
  const bool reads_segment = zy.mnemonic == ZYDIS_MNEMONIC_MOV && zy.opcode == 0x8c &&
                             zy.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
                             operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
  if (reads_segment) return Form::ReadSegment;
  if (is_repeated_string(zy)) return Form::String;
  const Form form = kForms[static_cast<size_t>(zy.mnemonic)];
  if (form != Form::Interpret) return form;
  if (uses_x87_state(zy)) return Form::X87;
  return uses_sse_state(zy) ? Form::Plain : Form::Interpret;
}

bool may_be_unaligned(ZydisMnemonic mnemonic) {
  constexpr ZydisMnemonic kUnaligned[] = {ZYDIS_MNEMONIC_MOVUPS, ZYDIS_MNEMONIC_MOVUPD,
                                          ZYDIS_MNEMONIC_MOVDQU, ZYDIS_MNEMONIC_LDDQU};
  for (const ZydisMnemonic unaligned : kUnaligned) {
    if (mnemonic == unaligned) return true;
  }
  return false;
}

}  // namespace trapeze::soft
