// Operands: which registers hold them, and the inline TLB probe.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg32;
using Xbyak::Reg64;
namespace regs = Xbyak::util;

namespace {

bool is_gpr(ZydisRegister reg) { return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15; }
uint8_t guest_number(ZydisRegister reg) { return gpr_slot(reg) / 8; }
bool is_high_byte(ZydisRegister reg) {
  return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

}  // namespace

bool BlockTranslator::gather_register(const Item& item, const ZydisDecodedOperand& operand,
                                      PlainOperands& out) const {
  const ZydisRegister name = operand.reg.value;
  RegisterUse* use = nullptr;
  switch (static_cast<int>(operand.encoding)) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
      use = &out.reg;
      break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
      use = &out.rm;
      break;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
      use = &out.opcode;
      break;
    default:
      break;
  }
  const ZydisRegisterClass kind = ZydisRegisterGetClass(name);
  if (kind == ZYDIS_REGCLASS_FLAGS || name == ZYDIS_REGISTER_MXCSR) return true;
  if (kind == ZYDIS_REGCLASS_XMM) {
    if (use == nullptr) return true;  // XMM0, where it is
    use->used = use->is_xmm = true;
    use->host = static_cast<uint8_t>(ZydisRegisterGetId(name));
    return true;
  }
  if (!is_gpr(name)) return false;
  const uint8_t guest = guest_number(name);
  if (use == nullptr) {
    // Implicit: only where the host has it in the same register; CL is fetched.
    if (guest == 0 || guest == 2) return true;
    out.shift_by_cl = name == ZYDIS_REGISTER_CL && item.zy.meta.category != ZYDIS_CATEGORY_STRINGOP;
    return out.shift_by_cl;
  }
  use->used = true;
  use->guest = guest;
  use->host = kHostRegister[guest];
  use->high_byte = is_high_byte(name);
  use->written = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  const ZydisMnemonic mnemonic = item.zy.mnemonic;
  const bool is_move = mnemonic == ZYDIS_MNEMONIC_MOV || mnemonic == ZYDIS_MNEMONIC_MOVZX ||
                       mnemonic == ZYDIS_MNEMONIC_MOVSX || mnemonic == ZYDIS_MNEMONIC_MOVSXD;
  use->overwritten = is_move && use->written && operand.size >= 32;
  use->in_slot = use->host == kInMemory && use == &out.rm && slot_allowed(item, *use, operand.size);
  out.high_byte |= use->high_byte;
  out.any_rex |= name >= ZYDIS_REGISTER_SPL && name <= ZYDIS_REGISTER_DIL;
  return true;
}

// True when the instruction does in memory just what it does with a register: not so where a 32-bit
// result must clear the upper half, and where memory means a lock or another operand size.
bool BlockTranslator::slot_allowed(const Item& item, const RegisterUse& use, unsigned bits) {
  switch (static_cast<int>(item.zy.mnemonic)) {
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
      return false;
    default:
      break;
  }
  if (uses_sse_state(item.zy)) return false;
  return !use.high_byte && (!use.written || bits == 64);
}

bool BlockTranslator::gather(const Item& item, PlainOperands& out) const {
  for (unsigned i = 0; i < item.zy.operand_count; ++i) {
    const ZydisDecodedOperand& operand = item.operands[i];
    switch (operand.type) {
      case ZYDIS_OPERAND_TYPE_REGISTER:
        if (!gather_register(item, operand, out)) return false;
        break;
      case ZYDIS_OPERAND_TYPE_MEMORY:
        if (operand.mem.type != ZYDIS_MEMOP_TYPE_MEM || out.memory != nullptr) return false;
        if (operand.visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT) return false;
        out.memory = &operand;
        break;
      case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        break;
      case ZYDIS_OPERAND_TYPE_UNUSED:
      case ZYDIS_OPERAND_TYPE_POINTER:
      default:
        return false;
    }
  }
  return true;
}

// Gives scratch registers to operands that live in memory, and to guest RCX where the instruction
// has no room for a REX prefix. False: there are not enough.
bool BlockTranslator::assign_scratch(PlainOperands& operands, bool address_free) {
  uint8_t free[2];
  unsigned count = 0;
  if (!operands.shift_by_cl) free[count++] = kScratch;
  if (address_free && operands.memory == nullptr && !operands.high_byte) free[count++] = kAddress;
  if (operands.high_byte && operands.memory != nullptr) count = 0;
  RegisterUse* uses[] = {&operands.reg, &operands.rm, &operands.opcode};
  for (RegisterUse* use : uses) {
    if (!use->used || use->is_xmm || use->in_slot) continue;
    if (use->high_byte) {
      use->host = static_cast<uint8_t>(use->guest + 4);
      if (use->guest != kRcxNumber) continue;
      // CH: of the scratch register, which holds guest RCX for the while.
      if (count == 0 || free[0] != kScratch) return false;
      free[0] = free[1];
      --count;
      continue;
    }
    const bool needs = use->host == kInMemory || (operands.high_byte && use->host >= 8);
    if (!needs) continue;
    bool shared = false;
    for (const RegisterUse* other : uses) {
      if (other == use) break;
      if (other->used && !other->is_xmm && !other->in_slot && other->guest == use->guest) {
        use->host = other->high_byte ? kScratch : other->host;
        shared = true;
      }
    }
    if (shared) continue;
    if (count == 0) return false;
    use->host = free[0];
    free[0] = free[1];
    --count;
  }
  return true;
}

void BlockTranslator::load_scratch(const RegisterUse& use) {
  if (use.used && use.high_byte && use.guest == kRcxNumber) {
    code_.mov(Reg64(kScratch), Reg64(kHostRcx));
  }
  if (!use.used || use.is_xmm || use.high_byte || use.host == kHostRegister[use.guest]) return;
  if (use.overwritten) return;
  if (kHostRegister[use.guest] == kInMemory) {
    if (use.host == kScratch && cached_ == use.guest) return;
    code_.load(Reg64(use.host), gpr_offset(use.guest));
    if (use.host == kScratch) cached_ = use.guest;
  } else {
    code_.mov(Reg64(use.host), Reg64(kHostRegister[use.guest]));
  }
}

void BlockTranslator::store_scratch(const RegisterUse& use) {
  if (use.used && use.high_byte && use.guest == kRcxNumber && use.written) {
    code_.mov(Reg64(kHostRcx), Reg64(kScratch));
  }
  if (!use.used || use.is_xmm || use.high_byte || use.host == kHostRegister[use.guest]) return;
  if (!use.written) return;
  if (kHostRegister[use.guest] == kInMemory) {
    code_.store(gpr_offset(use.guest), Reg64(use.host));
    slot_written(use.guest);
    if (use.host == kScratch) cached_ = use.guest;
  } else {
    code_.mov(Reg64(kHostRegister[use.guest]), Reg64(use.host));
  }
}

bool BlockTranslator::constant_linear(const Item& item, const ZydisDecodedOperand& memory,
                                      uint64_t& linear) const {
  const auto& mem = memory.mem;
  if (mem.segment == ZYDIS_REGISTER_FS || mem.segment == ZYDIS_REGISTER_GS) return false;
  if (mem.index != ZYDIS_REGISTER_NONE || item.zy.address_width != 64) return false;
  const uint64_t disp = mem.disp.has_displacement ? static_cast<uint64_t>(mem.disp.value) : 0;
  if (mem.base == ZYDIS_REGISTER_NONE) {
    linear = disp;
    return true;
  }
  if (mem.base != ZYDIS_REGISTER_RIP) return false;
  linear = next_rip_of(item) + disp;
  return true;
}

// R11 = the operand's linear address, or its effective address without the segment's base.
void BlockTranslator::emit_linear(const Item& item, const ZydisDecodedOperand& memory,
                                  bool with_segment) {
  const auto& mem = memory.mem;
  const Reg64 address(kAddress), scratch(kScratch);
  const bool narrow = item.zy.address_width == 32;
  const int64_t disp = mem.disp.has_displacement ? mem.disp.value : 0;
  const bool rip_relative = mem.base == ZYDIS_REGISTER_RIP || mem.base == ZYDIS_REGISTER_EIP;
  if (rip_relative || (mem.base == ZYDIS_REGISTER_NONE && mem.index == ZYDIS_REGISTER_NONE)) {
    uint64_t value = static_cast<uint64_t>(disp) + (rip_relative ? next_rip_of(item) : 0);
    if (narrow) value &= 0xffff'ffffU;
    code_.mov(address, value);
  } else {
    Xbyak::RegExp sum;
    if (mem.base != ZYDIS_REGISTER_NONE) {
      const uint8_t guest = guest_number(mem.base);
      uint8_t host = kHostRegister[guest];
      if (host == kInMemory) {
        code_.load(address, gpr_offset(guest));
        host = kAddress;
      }
      sum = sum + Reg64(host);
    }
    if (mem.index != ZYDIS_REGISTER_NONE) {
      const uint8_t guest = guest_number(mem.index);
      uint8_t host = kHostRegister[guest];
      if (host == kInMemory) {
        code_.load(scratch, gpr_offset(guest));
        host = kScratch;
      }
      sum = sum + Reg64(host) * mem.scale;
    }
    sum = sum + static_cast<int>(disp);
    if (narrow) {
      code_.lea(Reg32(kAddress), code_.ptr[sum]);
    } else {
      code_.lea(address, code_.ptr[sum]);
    }
  }
  if (with_segment && (mem.segment == ZYDIS_REGISTER_FS || mem.segment == ZYDIS_REGISTER_GS)) {
    const unsigned seg = mem.segment == ZYDIS_REGISTER_FS ? kFs : kGs;
    code_.load(scratch, offsetof(Cpu, linear_base) + seg * 8);
    code_.lea(address, code_.ptr[address + scratch]);
  }
}

// Looks R11 up in the inline TLB; leaves the flags alone. Behind it R11 + RCX is the host address.
HostMemory BlockTranslator::probe(const Item& item, const Access& access) {
  const Reg64 address(kAddress), scratch(kScratch);
  const auto number = static_cast<uint32_t>(translator_.sites_.size());
  Site& site = translator_.sites_.emplace_back();
  site.kind = SiteKind::Memory;
  site.translation = index_;
  site.linear = translation_.linear;
  site.uses_sse = translation_.uses_sse;
  site.insn = item.insn;
  site.size = access.size;
  site.write = access.write;
  site.aligned = access.aligned;
  site.retry = access.start;
  waiting_for_next_.push_back(number);

  if (access.aligned && access.size > 16) {  // a group with aligned accesses
    code_.pext_state(scratch, address, TRAPEZE_STATE(unaligned_mask));
    go_on_if_rcx_zero(number);
  }
  const bool alone = access.aligned && access.size == 16;
  const size_t tags =
      table_offset(access.write ? offsetof(FastTlb, minus_write) : offsetof(FastTlb, minus_read));
  code_.pext_state(scratch, address, tlb_mask());
  code_.db(0x65);
  code_.mov(scratch, code_.ptr[scratch * 8 + tags]);
  code_.lea(scratch, code_.ptr[address + scratch + (alone ? 0 : access.size - 1)]);
  code_.pext_state(scratch, scratch,
                   alone ? TRAPEZE_STATE(aligned_page_mask) : TRAPEZE_STATE(page_mask));
  go_on_if_rcx_zero(number);
  code_.pext_state(scratch, address, tlb_mask());
  code_.db(0x65);
  code_.mov(scratch, code_.ptr[scratch * 8 + table_offset(offsetof(FastTlb, addend))]);
  return {kAddress, true, 0};
}

HostMemory BlockTranslator::probe_operand(const Item& item, const ZydisDecodedOperand& memory,
                                          bool aligned) {
  if (place_of(item) != nullptr) return group_access(item);
  const uint32_t start = code_.here();
  emit_linear(item, memory, true);
  const bool write = (memory.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  return probe(item, {start, static_cast<uint16_t>(memory.size / 8), write, aligned});
}

HostMemory BlockTranslator::probe_stack(const Item& item, uint8_t base, int32_t offset,
                                        bool write) {
  if (place_of(item) != nullptr) return group_access(item);
  const uint32_t start = code_.here();
  if (offset == 0) {
    code_.mov(Reg64(kAddress), Reg64(kHostRegister[base]));
  } else {
    code_.lea(Reg64(kAddress), code_.ptr[Reg64(kHostRegister[base]) + offset]);
  }
  return probe(item, {start, 8, write, false});
}

HostMemory BlockTranslator::combine(HostMemory memory) {
  if (!memory.indexed) return memory;
  code_.lea(Reg64(kAddress), code_.ptr[Reg64(memory.base) + Reg64(kScratch) + memory.disp]);
  return {kAddress, false, 0};
}

}  // namespace trapeze::soft
