// x87: on the host's own unit, which holds the guest's state from the first translation that uses
// it until something asks C++ (stubs.cpp).
//
// Only while the guest has all exceptions masked, so that the host never sees one; what unmasks
// them is left to the interpreter, and so is all else until they are masked again (run.cpp).
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg32;
using Xbyak::Reg64;

bool BlockTranslator::emit_x87(const Item& item) {
  const ZydisDecodedInstruction& zy = item.zy;
  if (zy.mnemonic == ZYDIS_MNEMONIC_FWAIT) return true;  // nothing is pending
  const ZydisDecodedOperand* operand = nullptr;
  for (unsigned i = 0; i < zy.operand_count_visible; ++i) {
    if (item.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) operand = &item.operands[i];
  }
  if (operand == nullptr) {
    code_.db(zy.opcode);
    code_.db(zy.raw.modrm.mod << 6 | zy.raw.modrm.reg << 3 | zy.raw.modrm.rm);
  } else {
    if (!may_address(item, *operand)) return false;
    const HostMemory memory = probe_operand(item, *operand, false);
    if (zy.mnemonic == ZYDIS_MNEMONIC_FLDCW) {
      emit_load_control_word(item, memory);
    } else {
      Encoding encoding;
      encoding.opcode = zy.opcode;
      code_.encode_memory(encoding, zy.raw.modrm.reg, memory);
    }
  }
  if (!is_x87_control(zy.mnemonic)) x87_before_ = item.insn.start;
  return true;
}

// By a copy: memory may be written to between the look at it and the load.
void BlockTranslator::emit_load_control_word(const Item& item, HostMemory memory) {
  const Reg64 scratch(kScratch);
  memory = free_scratch(memory);
  code_.movzx(Reg32(kScratch), code_.word[host(memory)]);
  code_.store(TRAPEZE_STATE(spare), scratch);
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(x87_masks));
  code_.lea(scratch, code_.ptr[scratch - 0x3f]);
  code_.skip_jump_if_rcx_zero();
  emit_interpret(item);
  code_.load_control_word_state(TRAPEZE_STATE(spare));
}

// Not at each instruction: only before others may look.
void BlockTranslator::settle_fip() {
  if (x87_before_ == kNoX87) return;
  const uint64_t fip = translation_.linear + x87_before_;
  constexpr size_t kFip = offsetof(Cpu, fpu) + offsetof(FpuState, fip);
  code_.store_imm32(kFip, static_cast<uint32_t>(fip));
  code_.store_imm32(kFip + 4, static_cast<uint32_t>(fip >> 32));
  x87_before_ = kNoX87;
}

}  // namespace trapeze::soft
