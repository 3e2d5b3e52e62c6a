// Plain instructions, LEA and the stack.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg16;
using Xbyak::Reg32;
using Xbyak::Reg64;

namespace {

uint8_t map_of(const ZydisDecodedInstruction& zy) {
  switch (static_cast<int>(zy.opcode_map)) {
    case ZYDIS_OPCODE_MAP_0F:
      return 1;
    case ZYDIS_OPCODE_MAP_0F38:
      return 2;
    case ZYDIS_OPCODE_MAP_0F3A:
      return 3;
    default:
      return 0;
  }
}

Encoding encoding_of(const ZydisDecodedInstruction& zy, std::span<const uint8_t> bytes) {
  Encoding encoding;
  encoding.map = map_of(zy);
  encoding.opcode = zy.opcode;
  encoding.rex_w = zy.raw.rex.W != 0;
  for (unsigned i = 0; i < zy.raw.prefix_count; ++i) {
    const uint8_t prefix = zy.raw.prefixes[i].value;
    encoding.operand_size |= prefix == 0x66;
    encoding.repne |= prefix == 0xf2;
    encoding.rep |= prefix == 0xf3;
    encoding.lock |= prefix == 0xf0;
  }
  // With both, the last one counts; no compiler emits that.
  if (encoding.repne && encoding.rep) encoding.rep = encoding.repne = false;
  const auto& imm = zy.raw.imm[0];
  if (imm.size != 0) encoding.immediate = bytes.subspan(imm.offset, imm.size / 8U);
  return encoding;
}

bool is_one_byte_inc_dec(const ZydisDecodedInstruction& zy) {
  return map_of(zy) == 0 && zy.opcode >= 0x40 && zy.opcode <= 0x4f;
}

bool has_two_repeat_prefixes(const ZydisDecodedInstruction& zy) {
  bool f2 = false, f3 = false;
  for (unsigned i = 0; i < zy.raw.prefix_count; ++i) {
    f2 |= zy.raw.prefixes[i].value == 0xf2;
    f3 |= zy.raw.prefixes[i].value == 0xf3;
  }
  return f2 && f3;
}

// The bit offset in a register may lead far outside the operand.
bool is_bit_string(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands) {
  switch (static_cast<int>(zy.mnemonic)) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
      return operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
      return false;
  }
}

}  // namespace

bool BlockTranslator::must_be_aligned(const ZydisDecodedInstruction& zy,
                                      const ZydisDecodedOperand& memory) {
  if (is_vex(zy)) return memory.size == 128 && is_aligned_vex(zy);
  return memory.size == 128 && !may_be_unaligned(zy.mnemonic);
}

bool BlockTranslator::has_memory(const Item& item) {
  for (unsigned i = 0; i < item.zy.operand_count_visible; ++i) {
    if (item.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) return true;
  }
  return false;
}

bool BlockTranslator::is_encodable(const Item& item) {
  if (has_two_repeat_prefixes(item.zy)) return false;
  return !(has_memory(item) && is_bit_string(item.zy, item.operands));
}

// What 64-bit code encodes otherwise: 40 to 4F are REX prefixes there, and 82 is nothing.
void BlockTranslator::to_code64(const ZydisDecodedInstruction& zy, Encoding& encoding,
                                PlainOperands& operands) {
  if (is_one_byte_inc_dec(zy)) {
    encoding.opcode = 0xff;
    operands.rm = operands.opcode;
    operands.opcode.used = false;
    operands.extension = zy.opcode >= 0x48 ? 1 : 0;
  } else if (encoding.map == 0 && encoding.opcode == 0x82) {
    encoding.opcode = 0x80;
  }
}

bool BlockTranslator::emit_plain(const Item& item) {
  if (is_vex(item.zy)) return emit_vex(item);
  const ZydisDecodedInstruction& zy = item.zy;
  PlainOperands operands;
  for (unsigned i = 0; i < zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = item.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && !may_address(item, operand)) return false;
  }
  if (has_memory(item) && is_bit_string(zy, item.operands)) return emit_bit_string(item);
  if (!is_encodable(item) || !gather(item, operands)) return false;
  const bool in_group = use_groups_ && group_of(item) != kNone;
  if (!assign_scratch(operands, !in_group)) return false;
  Encoding encoding = encoding_of(zy, item.bytes);
  if (is_code32()) to_code64(zy, encoding, operands);
  encoding.any_rex = operands.any_rex;
  encoding.no_rex = operands.high_byte;

  // Shifts by CL, high bytes and memory operands take RCX for themselves.
  if (operands.memory != nullptr || operands.shift_by_cl || operands.high_byte) {
    cached_ = kInMemory;
  }
  if (emit_slot_form(item, operands, encoding)) return true;
  uint8_t reg = operands.reg.used ? operands.reg.host : zy.raw.modrm.reg & 7;
  if (operands.extension != kNoExtension) reg = operands.extension;
  HostMemory memory;
  if (operands.memory != nullptr) {
    const bool moffs = (zy.attributes & ZYDIS_ATTRIB_HAS_MODRM) == 0;
    memory = probe_operand(item, *operands.memory, must_be_aligned(zy, *operands.memory));
    const bool busy = operands.shift_by_cl || reg == kScratch;
    if (operands.high_byte) {
      address_in_scratch(memory);
      memory = {kScratch, kNoIndex, 0};
    } else if (busy) {
      memory = free_scratch(memory);
    }
    if (moffs) {
      // A0 to A3: MOV of the accumulator with an absolute address becomes 8A, 8B, 88, 89.
      if (zy.opcode < 0xa0 || zy.opcode > 0xa3 || encoding.map != 0) return false;
      constexpr uint8_t kOpcodes[] = {0x8a, 0x8b, 0x88, 0x89};
      encoding.opcode = kOpcodes[zy.opcode - 0xa0];
      encoding.immediate = {};
      code_.encode_memory(encoding, 0, memory);
      return true;
    }
  }
  load_scratch(operands.reg);
  if (!operands.rm.in_slot) load_scratch(operands.rm);
  load_scratch(operands.opcode);
  if (operands.shift_by_cl) code_.mov(Reg32(kScratch), Reg32(kHostRcx));

  if (operands.memory != nullptr) {
    code_.encode_memory(encoding, reg, memory);
  } else if (operands.rm.in_slot) {
    code_.encode_slot(encoding, reg, gpr_offset(operands.rm.guest));
    if (operands.rm.written) slot_written(operands.rm.guest);
  } else if (operands.opcode.used) {
    code_.encode_opcode_register(encoding, operands.opcode.host);
  } else if (operands.rm.used || operands.reg.used) {
    code_.encode_register(encoding, reg, operands.rm.host);
  } else if ((zy.attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0) {
    // Fences: ModRM is part of the opcode.
    code_.encode_register(encoding, reg, zy.raw.modrm.rm & 7);
  } else {
    code_.encode_plain(encoding);
  }
  store_scratch(operands.reg);
  if (!operands.rm.in_slot) store_scratch(operands.rm);
  store_scratch(operands.opcode);
  return true;
}

// The two-operand forms 00 to 3B and MOV 88 to 8B come in both directions: with the other one, a
// register operand that lives in memory becomes the r/m operand.
bool BlockTranslator::emit_slot_form(const Item& item, const PlainOperands& operands,
                                     Encoding encoding) {
  const RegisterUse& reg = operands.reg;
  const RegisterUse& rm = operands.rm;
  const bool alu = (item.zy.opcode & 0xc4) == 0 && item.zy.opcode < 0x40;
  const bool move = item.zy.opcode >= 0x88 && item.zy.opcode <= 0x8b;
  if (encoding.map != 0 || !(alu || move) || !reg.used || !rm.used) return false;
  if (operands.high_byte || reg.is_xmm || rm.is_xmm) return false;
  if (kHostRegister[reg.guest] != kInMemory || kHostRegister[rm.guest] == kInMemory) return false;
  if (reg.written && !encoding.rex_w) return false;  // 32 bits would have to clear the upper half
  if (cached_ == reg.guest && !reg.written) return false;  // it is in RCX
  encoding.opcode ^= 2;
  code_.encode_slot(encoding, kHostRegister[rm.guest], gpr_offset(reg.guest));
  if (reg.written) slot_written(reg.guest);
  return true;
}

void BlockTranslator::address_in_scratch(const HostMemory& memory) {
  code_.lea(Reg64(kScratch), code_.ptr[host(memory)]);
}

// True when one LEA into the destination does it.
bool BlockTranslator::is_direct_lea(const Item& item) const {
  const auto& mem = item.operands[1].mem;
  const auto pinned = [](ZydisRegister reg) {
    return reg == ZYDIS_REGISTER_NONE || (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15 &&
                                          kHostRegister[gpr_slot(reg) / 8] != kInMemory);
  };
  // An address of 32 bits is the lower half of the sum, as a result of 32 bits is.
  const bool right_width = item.zy.address_width == 64
                               ? item.zy.operand_width != 16
                               : item.zy.address_width == 32 && item.zy.operand_width == 32;
  return right_width && kHostRegister[item.insn.dst / 8] != kInMemory && pinned(mem.base) &&
         pinned(mem.index) && (mem.base != ZYDIS_REGISTER_NONE || mem.index != ZYDIS_REGISTER_NONE);
}

bool BlockTranslator::emit_lea(const Item& item) {
  const uint8_t guest = item.insn.dst / 8;
  const uint8_t home = kHostRegister[guest];
  if (is_direct_lea(item)) {
    const auto& mem = item.operands[1].mem;
    Xbyak::RegExp sum;
    if (mem.base != ZYDIS_REGISTER_NONE) sum = sum + Reg64(kHostRegister[gpr_slot(mem.base) / 8]);
    if (mem.index != ZYDIS_REGISTER_NONE) {
      sum = sum + Reg64(kHostRegister[gpr_slot(mem.index) / 8]) * mem.scale;
    }
    sum = sum + static_cast<int>(mem.disp.has_displacement ? mem.disp.value : 0);
    if (item.zy.operand_width == 32) {
      code_.lea(Reg32(home), code_.ptr[sum]);
    } else {
      code_.lea(Reg64(home), code_.ptr[sum]);
    }
    return true;
  }
  if (item.zy.address_width == 16) return false;
  emit_linear(item, item.operands[1], false);
  const Reg64 address(kAddress);
  if (item.zy.operand_width == 16) {
    if (home == kInMemory) {
      code_.store(gpr_offset(guest), Reg16(kAddress));
    } else {
      code_.mov(Reg16(home), Reg16(kAddress));
    }
    return true;
  }
  if (item.zy.operand_width == 32) code_.mov(Reg32(kAddress), Reg32(kAddress));
  if (home == kInMemory) {
    code_.store(gpr_offset(guest), address);
  } else {
    code_.mov(Reg64(home), address);
  }
  return true;
}

// True when the value is one of 32 bits that is sign-extended; else RCX has it.
bool BlockTranslator::push_constant(const Item& item, uint64_t value) {
  HostMemory memory = probe_stack(item, kRspNumber, -stack_bytes(), true);
  const auto low = static_cast<int32_t>(value);
  if (is_code32()) {
    memory = free_scratch(memory);
    code_.mov(Reg32(kScratch), static_cast<uint32_t>(value));
    code_.mov(code_.dword[host(memory)], Reg32(kScratch));
    move_rsp(item, -4);
    return false;
  }
  const bool is_short = static_cast<uint64_t>(static_cast<int64_t>(low)) == value;
  if (is_short) {
    code_.mov(code_.qword[host(memory)], low);
  } else {
    memory = free_scratch(memory);
    code_.mov(Reg64(kScratch), value);
    code_.mov(code_.qword[host(memory)], Reg64(kScratch));
  }
  move_rsp(item, -8);
  return is_short;
}

bool BlockTranslator::emit_push(const Item& item) {
  if (!is_stack_wide(item)) return false;
  const ZydisDecodedOperand& operand = item.operands[0];
  if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
    push_constant(item, static_cast<uint64_t>(item.insn.imm64));
    return true;
  }
  if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) return emit_push_memory(item);
  if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
  if (!is_stack_register(operand.reg.value)) return false;
  const uint8_t guest = item.insn.dst / 8;
  HostMemory memory = probe_stack(item, kRspNumber, -stack_bytes(), true);
  if (kHostRegister[guest] == kInMemory) {
    memory = free_scratch(memory);
    code_.load(Reg64(kScratch), gpr_offset(guest));
    code_.mov(code_.qword[host(memory)], Reg64(kScratch));
  } else {
    code_.mov(code_.ptr[host(memory)], stack_register(kHostRegister[guest]));
  }
  move_rsp(item, -stack_bytes());
  return true;
}

bool BlockTranslator::emit_pop(const Item& item) {
  if (!is_stack_wide(item)) return false;
  const ZydisDecodedOperand& operand = item.operands[0];
  if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
  if (!is_stack_register(operand.reg.value)) return false;
  const uint8_t guest = item.insn.dst / 8;
  const HostMemory memory = probe_stack(item, kRspNumber, 0, false);
  if (guest == kRspNumber) {  // the value, not the incremented pointer (SDM 2B)
    code_.mov(stack_register(kHostRsp), code_.ptr[host(memory)]);
    return true;
  }
  if (kHostRegister[guest] == kInMemory) {
    code_.mov(Reg64(kScratch), code_.qword[host(memory)]);
    code_.store(gpr_offset(guest), Reg64(kScratch));
  } else {
    code_.mov(stack_register(kHostRegister[guest]), code_.ptr[host(memory)]);
  }
  move_rsp(item, stack_bytes());
  return true;
}

bool BlockTranslator::emit_leave(const Item& item) {
  if (!is_stack_wide(item)) return false;
  constexpr uint8_t kRbp = 5;
  const HostMemory memory = probe_stack(item, kRbp, 0, false);
  code_.lea(stack_register(kHostRsp), code_.ptr[Reg64(kRbp) + stack_bytes()]);
  code_.mov(stack_register(kRbp), code_.ptr[host(memory)]);
  return true;
}

bool BlockTranslator::is_stack_register(ZydisRegister reg) const {
  return ZydisRegisterGetClass(reg) == (is_code32() ? ZYDIS_REGCLASS_GPR32 : ZYDIS_REGCLASS_GPR64);
}

}  // namespace trapeze::soft
