// Instructions that are neither plain nor branches, and frequent in kernels.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg32;
using Xbyak::Reg64;
namespace regs = Xbyak::util;

// PUSHFQ (SDM 2B): RF and VM are pushed as 0.
bool BlockTranslator::emit_push_flags(const Item& item) {
  if (item.zy.operand_width != 64) return false;
  const Reg64 address(kAddress), scratch(kScratch);
  code_.store(TRAPEZE_STATE(spare), regs::rax);
  code_.lahf();
  code_.seto(regs::al);
  code_.movzx(regs::ecx, regs::ah);
  code_.movzx(regs::eax, regs::al);
  code_.rorx(regs::eax, regs::eax, 32 - 11);
  // Bit 1 is set in what LAHF gives and in rflags_system.
  code_.lea(address, code_.ptr[scratch + regs::rax - 2]);
  code_.load(regs::rax, TRAPEZE_STATE(spare));
  code_.load(scratch, offsetof(Cpu, rflags_system));
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(pushed_mask));
  code_.pdep_state(scratch, scratch, TRAPEZE_STATE(pushed_mask));
  code_.lea(address, code_.ptr[address + scratch]);
  code_.store(TRAPEZE_STATE(spare), address);
  const HostMemory memory = free_scratch(probe_stack(item, kRspNumber, -8, true));
  code_.load(scratch, TRAPEZE_STATE(spare));
  code_.mov(code_.qword[host(memory)], scratch);
  code_.lea(Reg64(kHostRsp), code_.ptr[Reg64(kHostRsp) - 8]);
  return true;
}

// CLI at CPL 0. PEXT and PDEP clear the bit and leave the flags alone.
bool BlockTranslator::emit_disable_interrupts() {
  if (translation_.table == FastTable::User) return false;
  const Reg64 scratch(kScratch);
  code_.load(scratch, offsetof(Cpu, rflags_system));
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(not_if_mask));
  code_.pdep_state(scratch, scratch, TRAPEZE_STATE(not_if_mask));
  code_.store(offsetof(Cpu, rflags_system), scratch);
  return true;
}

// STI at CPL 0 with no interrupt waiting for it. Its shadow needs no care where the next
// instruction does not look at Cpu::attention.
bool BlockTranslator::emit_enable_interrupts(const Item& item) {
  if (translation_.table == FastTable::User || &item == &items_.back()) return false;
  const Form next = (&item)[1].form;
  if (next == Form::Return || next == Form::Jump || next == Form::JumpIf || next == Form::Call) {
    return false;
  }
  const Reg64 scratch(kScratch);
  code_.db(0x65);
  code_.movzx(regs::ecx, code_.byte[Xbyak::RegExp(offsetof(Cpu, irq_window_wanted))]);
  code_.skip_jump_if_rcx_zero();
  emit_interpret(item);
  code_.load(scratch, offsetof(Cpu, rflags_system));
  code_.pext_state(scratch, scratch, TRAPEZE_STATE(not_if_mask));
  code_.pdep_state(scratch, scratch, TRAPEZE_STATE(not_if_mask));
  code_.lea(scratch, code_.ptr[scratch + static_cast<int>(kIf)]);
  code_.store(offsetof(Cpu, rflags_system), scratch);
  return true;
}

// SWAPGS at CPL 0 (SDM 2B).
bool BlockTranslator::emit_swap_gs() {
  if (translation_.table == FastTable::User) return false;
  constexpr size_t kSegmentBase =
      offsetof(Cpu, seg) + kGs * sizeof(Segment) + offsetof(Segment, base);
  const Reg64 address(kAddress), scratch(kScratch);
  code_.load(address, kSegmentBase);
  code_.load(scratch, offsetof(Cpu, kernel_gs_base));
  code_.store(offsetof(Cpu, kernel_gs_base), address);
  code_.store(kSegmentBase, scratch);
  code_.store(offsetof(Cpu, linear_base) + kGs * sizeof(uint64_t), scratch);
  return true;
}

bool BlockTranslator::emit_compare_exchange_wide(const Item& item) {
  const bool wide = item.zy.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
  if (item.operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY) return false;
  if (!may_address(item, item.operands[0])) return false;
  const HostMemory memory = free_scratch(probe_operand(item, item.operands[0], wide));
  code_.mov(Reg64(kScratch), Reg64(kHostRcx));
  Encoding encoding;
  encoding.map = 1;
  encoding.opcode = 0xc7;
  encoding.rex_w = wide;
  encoding.lock = (item.insn.flags & kLock) != 0;
  code_.encode_memory(encoding, 1, memory);
  return true;
}

// MOV of a segment register: 32 and 64 bits are zero-extended (SDM 2B).
bool BlockTranslator::emit_read_segment(const Item& item) {
  if (item.zy.operand_width == 16) return false;
  SegIndex segment;
  switch (static_cast<int>(item.operands[1].reg.value)) {
    case ZYDIS_REGISTER_ES:
      segment = kEs;
      break;
    case ZYDIS_REGISTER_CS:
      segment = kCs;
      break;
    case ZYDIS_REGISTER_SS:
      segment = kSs;
      break;
    case ZYDIS_REGISTER_DS:
      segment = kDs;
      break;
    case ZYDIS_REGISTER_FS:
      segment = kFs;
      break;
    case ZYDIS_REGISTER_GS:
      segment = kGs;
      break;
    default:
      return false;
  }
  const uint8_t guest = gpr_slot(item.operands[0].reg.value) / 8;
  const uint8_t home = kHostRegister[guest];
  const size_t offset =
      offsetof(Cpu, seg) + segment * sizeof(Segment) + offsetof(Segment, selector);
  code_.db(0x65);
  code_.movzx(home == kInMemory ? regs::ecx : Reg32(home), code_.word[Xbyak::RegExp(offset)]);
  if (home == kInMemory) code_.store(gpr_offset(guest), Reg64(kScratch));
  return true;
}

// BT, BTS, BTR, BTC of memory with the bit's number in a register: it may be far away.
bool BlockTranslator::emit_bit_string(const Item& item) {
  const ZydisDecodedInstruction& zy = item.zy;
  const uint8_t offset = kHostRegister[item.insn.src / 8];
  if (offset == kInMemory || zy.operand_width == 16 || zy.address_width != 64) return false;
  const Reg64 address(kAddress), scratch(kScratch);
  const bool wide = zy.operand_width == 64;
  const uint32_t start = code_.here();
  emit_linear(item, item.operands[0], true);
  code_.mov(regs::ecx, wide ? 6 : 5);
  if (wide) {
    code_.sarx(scratch, Reg64(offset), scratch);
    code_.lea(address, code_.ptr[address + scratch * 8]);
  } else {
    code_.sarx(regs::ecx, Reg32(offset), regs::ecx);
    code_.movsxd(scratch, regs::ecx);
    code_.lea(address, code_.ptr[address + scratch * 4]);
  }
  const bool write = (item.operands[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  combine(probe(item, {start, static_cast<uint16_t>(wide ? 8 : 4), write, false}));
  code_.pext_state(scratch, Reg64(offset),
                   TRAPEZE_STATE(bit_masks) + (wide ? sizeof(uint64_t) : 0));
  Encoding encoding;
  encoding.map = 1;
  encoding.opcode = zy.opcode;
  encoding.rex_w = wide;
  encoding.lock = (item.insn.flags & kLock) != 0;
  code_.encode_memory(encoding, kScratch, {});
  return true;
}

bool BlockTranslator::emit_push_memory(const Item& item) {
  if (is_code32()) return false;
  const HostMemory from = probe_operand(item, item.operands[0], false);
  code_.mov(Reg64(kScratch), code_.qword[host(from)]);
  code_.store(TRAPEZE_STATE(spare), Reg64(kScratch));
  const HostMemory to = free_scratch(probe_stack(item, kRspNumber, -8, true));
  code_.load(Reg64(kScratch), TRAPEZE_STATE(spare));
  code_.mov(code_.qword[host(to)], Reg64(kScratch));
  code_.lea(Reg64(kHostRsp), code_.ptr[Reg64(kHostRsp) - 8]);
  return true;
}

}  // namespace trapeze::soft
