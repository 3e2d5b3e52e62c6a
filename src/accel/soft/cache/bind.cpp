#include "accel/soft/cache/bind.h"

#include "accel/soft/exec/dispatch.h"
#include "accel/soft/exec/vex.h"

namespace trapeze::soft {
namespace {

// What each instruction set extension needs of the CPU model. Sets that are not listed here and not
// in is_baseline() are not offered at all.
struct Requirement {
  ZydisISASet set;
  Feature feature;
};

constexpr Requirement kRequirements[] = {
    {ZYDIS_ISA_SET_ADOX_ADCX, Feature::Adx},
    {ZYDIS_ISA_SET_AES, Feature::Aes},
    {ZYDIS_ISA_SET_BMI1, Feature::Bmi1},
    {ZYDIS_ISA_SET_BMI2, Feature::Bmi2},
    {ZYDIS_ISA_SET_CLFLUSHOPT, Feature::Clflushopt},
    {ZYDIS_ISA_SET_CLFSH, Feature::Clfsh},
    {ZYDIS_ISA_SET_CLWB, Feature::Clwb},
    {ZYDIS_ISA_SET_CMOV, Feature::Cmov},
    {ZYDIS_ISA_SET_CMPXCHG16B, Feature::Cx16},
    {ZYDIS_ISA_SET_FCMOV, Feature::Cmov},
    {ZYDIS_ISA_SET_FXSAVE, Feature::Fxsr},
    {ZYDIS_ISA_SET_FXSAVE64, Feature::Fxsr},
    {ZYDIS_ISA_SET_INVPCID, Feature::Invpcid},
    {ZYDIS_ISA_SET_LZCNT, Feature::Abm},
    {ZYDIS_ISA_SET_MONITOR, Feature::Monitor},
    {ZYDIS_ISA_SET_MOVBE, Feature::Movbe},
    {ZYDIS_ISA_SET_PCLMULQDQ, Feature::Pclmulqdq},
    {ZYDIS_ISA_SET_PENTIUMMMX, Feature::Mmx},
    {ZYDIS_ISA_SET_POPCNT, Feature::Popcnt},
    {ZYDIS_ISA_SET_RDPID, Feature::Rdpid},
    {ZYDIS_ISA_SET_RDRAND, Feature::Rdrand},
    {ZYDIS_ISA_SET_RDSEED, Feature::Rdseed},
    {ZYDIS_ISA_SET_RDTSCP, Feature::Rdtscp},
    {ZYDIS_ISA_SET_RDWRFSGS, Feature::Fsgsbase},
    {ZYDIS_ISA_SET_SHA, Feature::Sha},
    {ZYDIS_ISA_SET_SMAP, Feature::Smap},
    {ZYDIS_ISA_SET_SSE, Feature::Sse},
    {ZYDIS_ISA_SET_SSEMXCSR, Feature::Sse},
    {ZYDIS_ISA_SET_SSE2, Feature::Sse2},
    {ZYDIS_ISA_SET_SSE2MMX, Feature::Sse2},
    {ZYDIS_ISA_SET_SSE3, Feature::Sse3},
    {ZYDIS_ISA_SET_SSE3X87, Feature::Sse3},
    {ZYDIS_ISA_SET_SSE4, Feature::Sse41},
    {ZYDIS_ISA_SET_SSE42, Feature::Sse42},
    {ZYDIS_ISA_SET_SSSE3, Feature::Ssse3},
    {ZYDIS_ISA_SET_SSSE3MMX, Feature::Ssse3},
    {ZYDIS_ISA_SET_XSAVE, Feature::Xsave},
    {ZYDIS_ISA_SET_XSAVEC, Feature::Xsave},  // CPUID leaf 0xd has both
    {ZYDIS_ISA_SET_XSAVEOPT, Feature::Xsave},
};
// The same of VEX encodings. Bytes that are some other processor's are in no set of this list.
constexpr Requirement kVexRequirements[] = {
    {ZYDIS_ISA_SET_AVX, Feature::Avx},         {ZYDIS_ISA_SET_AVX2, Feature::Avx2},
    {ZYDIS_ISA_SET_AVX2GATHER, Feature::Avx2}, {ZYDIS_ISA_SET_AVXAES, Feature::Aes},
    {ZYDIS_ISA_SET_BMI1, Feature::Bmi1},       {ZYDIS_ISA_SET_BMI2, Feature::Bmi2},
    {ZYDIS_ISA_SET_F16C, Feature::F16c},       {ZYDIS_ISA_SET_FMA, Feature::Fma},
};

bool is_baseline(ZydisISASet set) {
  constexpr ZydisISASet kBaseline[] = {
      ZYDIS_ISA_SET_FAT_NOP,      ZYDIS_ISA_SET_I186,  ZYDIS_ISA_SET_I286PROTECTED,
      ZYDIS_ISA_SET_I286REAL,     ZYDIS_ISA_SET_I386,  ZYDIS_ISA_SET_I486,
      ZYDIS_ISA_SET_I486REAL,     ZYDIS_ISA_SET_I86,   ZYDIS_ISA_SET_LAHF,
      ZYDIS_ISA_SET_LONGMODE,     ZYDIS_ISA_SET_PAUSE, ZYDIS_ISA_SET_PENTIUMREAL,
      ZYDIS_ISA_SET_PPRO,         ZYDIS_ISA_SET_RDPMC, ZYDIS_ISA_SET_SSE_PREFETCH,
      ZYDIS_ISA_SET_PREFETCH_NOP, ZYDIS_ISA_SET_X87,   ZYDIS_ISA_SET_AMD,
      ZYDIS_ISA_SET_PREFETCHWT1,  ZYDIS_ISA_SET_VTX,   ZYDIS_ISA_SET_SVM,
  };
  for (const ZydisISASet allowed : kBaseline) {
    if (set == allowed) return true;
  }
  return false;
}

bool is_vex_offered(const Decoded& decoded, const CpuModel& model) {
  const ZydisISASet set = decoded.zy.meta.isa_set;
  // Listed as AVX, but there only where its SSE form is (SDM 1 14.5).
  const bool needs_pclmulqdq = decoded.zy.mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ;
  if (needs_pclmulqdq && !model.has(Feature::Pclmulqdq)) return false;
  for (const Requirement& requirement : kVexRequirements) {
    if (requirement.set != set) continue;
    const bool has_avx = set != ZYDIS_ISA_SET_AVXAES || model.has(Feature::Avx);
    return has_avx && model.has(requirement.feature);
  }
  return false;
}

bool is_offered(const Decoded& decoded, const CpuModel& model) {
  const ZydisISASet set = decoded.zy.meta.isa_set;
  if (decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return is_vex_offered(decoded, model);
  if (decoded.zy.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) return false;
  for (const Requirement& requirement : kRequirements) {
    if (requirement.set == set) return model.has(requirement.feature);
  }
  if (is_baseline(set)) return true;
  // PREFETCHW is listed under 3DNow!, of which nothing else is offered.
  const ZydisMnemonic mnemonic = decoded.zy.mnemonic;
  return mnemonic == ZYDIS_MNEMONIC_PREFETCH || mnemonic == ZYDIS_MNEMONIC_PREFETCHW;
}

Step end_of_block(Cpu&, const Insn&) { return Step::EndBlock; }
Step restart(Cpu&, const Insn&) { return Step::Restart; }
Step raise_too_long(Cpu& cpu, const Insn&) { return raise(cpu, kGP, 0); }

Handler find_handler(Decoded& decoded) {
  if (decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) return exec::bind_vex(decoded);
  Handler found = exec::bind_integer(decoded);
  if (found == nullptr) found = exec::bind_system(decoded);
  if (found == nullptr) found = exec::bind_vector(decoded);
  return found;
}

}  // namespace

void bind(Decoded& decoded, const CpuModel& model) {
  const Handler found = is_offered(decoded, model) ? find_handler(decoded) : nullptr;
  decoded.insn.run = found != nullptr ? found : exec::undefined_opcode();
}

bool ends_block(const Decoded& decoded) {
  const ZydisInstructionCategory category = decoded.zy.meta.category;
  for (const ZydisInstructionCategory ending :
       {ZYDIS_CATEGORY_COND_BR, ZYDIS_CATEGORY_UNCOND_BR, ZYDIS_CATEGORY_CALL, ZYDIS_CATEGORY_RET,
        ZYDIS_CATEGORY_SYSCALL, ZYDIS_CATEGORY_SYSRET, ZYDIS_CATEGORY_INTERRUPT}) {
    if (category == ending) return true;
  }
  return false;
}

Handler block_end_handler() { return &exec::handler<end_of_block>; }
Handler stale_handler() { return &exec::handler<restart>; }
Handler invalid_handler() { return exec::undefined_opcode(); }
Handler too_long_handler() { return &exec::handler<raise_too_long>; }

}  // namespace trapeze::soft
