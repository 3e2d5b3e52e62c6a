// x87 data instructions: operands from and to memory, pointers to the last instruction.
#include "accel/soft/exec/x87.h"

#include "accel/soft/exec/vector_classes.h"
#include "accel/soft/exec/vector_operands.h"

namespace trapeze::soft::exec {
namespace {

// Memory operands by opcode (from 0xd8) and ModRM.reg: bytes read (positive) or written (negative);
// 0: a control instruction or no instruction.
constexpr int8_t kMemoryBytes[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},         // D8: arithmetic with m32fp
    {4, 0, -4, -4, 0, 0, 0, 0},       // D9: FLD, FST, FSTP m32fp
    {4, 4, 4, 4, 4, 4, 4, 4},         // DA: arithmetic with m32int
    {4, -4, -4, -4, 0, 10, 0, -10},   // DB: FILD, FISTTP, FIST, FISTP m32int; FLD, FSTP m80fp
    {8, 8, 8, 8, 8, 8, 8, 8},         // DC: arithmetic with m64fp
    {8, -8, -8, -8, 0, 0, 0, 0},      // DD: FLD m64fp; FISTTP m64int; FST, FSTP m64fp
    {2, 2, 2, 2, 2, 2, 2, 2},         // DE: arithmetic with m16int
    {2, -2, -2, -2, 10, 8, -10, -8},  // DF: FILD.. m16int; FBLD; FILD m64int; FBSTP; FISTP m64int
};

void record_exactly(Cpu& cpu, const Insn& insn, const X87Result& result) {
  record_x87(cpu, insn);
  if ((result.raised & ~cpu.fpu.fcw & kFcwMasks) == 0) return;
  cpu.fpu.fop = static_cast<uint16_t>((insn.dst & 7U) << 8 | insn.src);
  if (!is_x87_register_form(insn)) cpu.fpu.fdp = effective_address(cpu, insn);
}

Step x87_register(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  X87Result result;
  run_x87(cpu, x87_register_stub(insn.dst, insn.src), nullptr, result);
  commit_x87(cpu, result);
  record_exactly(cpu, insn, result);
  return Step::Next;
}

Step x87_load(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  alignas(16) uint8_t operand[16] = {};
  const int size = kMemoryBytes[insn.dst & 7U][insn.aux & 7U];
  if (!load_block(cpu, insn, operand, static_cast<unsigned>(size))) return Step::Fault;
  X87Result result;
  run_x87(cpu, x87_memory_stub(insn.dst, insn.aux), operand, result);
  commit_x87(cpu, result);
  record_exactly(cpu, insn, result);
  return Step::Next;
}

Step x87_store(Cpu& cpu, const Insn& insn) {
  if (!x87_usable(cpu, true)) return Step::Fault;
  alignas(16) uint8_t operand[16] = {};
  const int size = -kMemoryBytes[insn.dst & 7U][insn.aux & 7U];
  X87Result result;
  run_x87(cpu, x87_memory_stub(insn.dst, insn.aux), operand, result);
  // An unmasked exception other than precision leaves memory alone (SDM 1 8.5).
  constexpr uint16_t kPrecision = 1U << 5;
  const bool stored = (result.raised & ~cpu.fpu.fcw & kFswFlags & ~kPrecision) == 0;
  if (stored && !store_block(cpu, insn, operand, static_cast<unsigned>(size))) return Step::Fault;
  commit_x87(cpu, result);
  record_exactly(cpu, insn, result);
  return Step::Next;
}

// 8087 and 287 control instructions that later processors ignore: FENI, FDISI, FSETPM.
Step x87_nothing(Cpu& cpu, const Insn&) {
  return x87_usable(cpu, false) ? Step::Next : Step::Fault;
}

Handler bind_exact(const Decoded& decoded) {
  switch (static_cast<unsigned>(decoded.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
      return &handler<x87_nothing>;
    default:
      break;
  }
  const Insn& insn = decoded.insn;
  if (is_x87_register_form(insn)) return &handler<x87_register>;
  const int bytes = kMemoryBytes[insn.dst & 7U][insn.aux];
  if (bytes == 0) return nullptr;
  return bytes > 0 ? &handler<x87_load> : &handler<x87_store>;
}

}  // namespace

Step x87_exact(Cpu& cpu, const Insn& insn) {
  if (is_x87_register_form(insn)) return x87_register(cpu, insn);
  return kMemoryBytes[insn.dst & 7U][insn.aux & 7U] > 0 ? x87_load(cpu, insn)
                                                        : x87_store(cpu, insn);
}

Handler bind_x87(Decoded& decoded) {
  const auto& zy = decoded.zy;
  if (zy.mnemonic == ZYDIS_MNEMONIC_FWAIT) return bind_x87_control(decoded);
  if (zy.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || zy.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
    return nullptr;
  if (zy.opcode < 0xd8 || zy.opcode > 0xdf) return nullptr;
  if (const Handler control = bind_x87_control(decoded)) return control;
  decoded.insn.dst = zy.opcode;
  decoded.insn.src =
      static_cast<uint8_t>(zy.raw.modrm.mod << 6 | zy.raw.modrm.reg << 3 | zy.raw.modrm.rm);
  decoded.insn.aux = zy.raw.modrm.reg;
  const Handler exact = bind_exact(decoded);
  if (exact == nullptr) return nullptr;
  const Handler quick = bind_x87_quick(decoded);
  return quick != nullptr ? quick : exact;
}

}  // namespace trapeze::soft::exec
