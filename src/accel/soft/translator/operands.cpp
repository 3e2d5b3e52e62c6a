// Operands: which registers hold them, and the inline TLB probe.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg16;
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

bool BlockTranslator::may_address(const Item& item, const ZydisDecodedOperand& memory) const {
  if (item.zy.address_width == 16) return false;
  if (!is_code32()) return true;
  const ZydisRegister segment = memory.mem.segment;
  return segment == ZYDIS_REGISTER_DS || segment == ZYDIS_REGISTER_SS ||
         segment == ZYDIS_REGISTER_ES;
}

bool BlockTranslator::constant_linear(const Item& item, const ZydisDecodedOperand& memory,
                                      uint64_t& linear) const {
  const auto& mem = memory.mem;
  if (mem.segment == ZYDIS_REGISTER_FS || mem.segment == ZYDIS_REGISTER_GS) return false;
  if (mem.index != ZYDIS_REGISTER_NONE || item.zy.address_width != (is_code32() ? 32 : 64)) {
    return false;
  }
  const uint64_t disp = mem.disp.has_displacement ? static_cast<uint64_t>(mem.disp.value) : 0;
  if (mem.base == ZYDIS_REGISTER_NONE) {
    linear = wrap(disp);
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

// True when the linear address is one register plus a displacement.
bool BlockTranslator::is_base_only(const Item& item, const ZydisDecodedOperand& memory) const {
  const auto& mem = memory.mem;
  if (mem.segment == ZYDIS_REGISTER_FS || mem.segment == ZYDIS_REGISTER_GS) return false;
  if (mem.index != ZYDIS_REGISTER_NONE || item.zy.address_width != 64) return false;
  if (mem.base < ZYDIS_REGISTER_RAX || mem.base > ZYDIS_REGISTER_R15) return false;
  if (kHostRegister[guest_number(mem.base)] == kInMemory) return false;
  // The last byte's displacement must do as well.
  return !mem.disp.has_displacement || mem.disp.value < INT32_MAX - 4096;
}

uint32_t BlockTranslator::new_probe(const Item& item, const Access& access) {
  const uint32_t number = new_site(item, SiteKind::Memory);
  Site& site = translator_.sites_[number];
  site.size = access.size;
  site.write = access.write;
  site.aligned = access.aligned;
  site.aligned_32 = access.aligned_32;
  site.masked = is_masked_move(item.zy);
  site.retry = access.start;
  return number;
}

// The bits of an address minus its page's that must be 0. What is aligned to its size cannot cross
// a page.
size_t BlockTranslator::page_mask_of(const Access& access) {
  if (!is_aligned_alone(access)) return TRAPEZE_STATE(page_mask);
  return access.aligned_32 ? TRAPEZE_STATE(aligned_page_mask_32) : TRAPEZE_STATE(aligned_page_mask);
}

// Of a group with aligned accesses: the bits of its first byte's address that must be 0.
size_t BlockTranslator::unaligned_mask_of(const Access& access) {
  return access.aligned_32 ? TRAPEZE_STATE(unaligned_mask_32) : TRAPEZE_STATE(unaligned_mask);
}

// The index in the inline TLB of the page of the address in `from`.
void BlockTranslator::page_index(uint8_t to, uint8_t from) {
  static_assert(FastTlb::kEntries == 65536 && kPageSize == 4096);
  code_.rorx(Reg64(to), Reg64(from), 12);
  code_.movzx(Reg32(to), Reg16(to));
}

// Looks R11 up in the inline TLB; leaves the flags alone. Behind it R11 + RCX is the host address.
HostMemory BlockTranslator::probe(const Item& item, const Access& access) {
  const Reg64 address(kAddress), scratch(kScratch);
  const uint32_t site = new_probe(item, access);
  if (access.aligned && access.size > 16) {  // a group with aligned accesses
    code_.pext_state(scratch, address, unaligned_mask_of(access));
    go_on_if_rcx_zero(site, {});
  }
  const bool alone = is_aligned_alone(access);
  page_index(kScratch, kAddress);
  code_.mov(scratch, code_.element(scratch, tags(access)));
  code_.lea(scratch, code_.ptr[address + scratch + (alone ? 0 : access.size - 1)]);
  code_.pext_state(scratch, scratch, page_mask_of(access));
  go_on_if_rcx_zero(site, {});
  page_index(kScratch, kAddress);
  code_.mov(scratch, code_.element(scratch, fast_tlb().addend));
  return {kAddress, kScratch, 0};
}

// The same for the address `base` + `disp`, which is made twice rather than kept: R11 can hold the
// index then. Leaves RCX free.
HostMemory BlockTranslator::probe_base(const Item& item, const Access& access, uint8_t base,
                                       int32_t disp) {
  const Reg64 address(kAddress), scratch(kScratch), from(base);
  const uint32_t site = new_probe(item, access);
  const Linear linear{Linear::Kind::Base, base, disp, 0};
  if (access.aligned && access.size > 16) {
    code_.lea(scratch, code_.ptr[from + disp]);
    code_.pext_state(scratch, scratch, unaligned_mask_of(access));
    go_on_if_rcx_zero(site, linear);
  }
  const bool alone = is_aligned_alone(access);
  if (disp != 0) code_.lea(address, code_.ptr[from + disp]);
  page_index(kAddress, disp != 0 ? kAddress : base);
  code_.mov(scratch, code_.element(address, tags(access)));
  code_.lea(scratch, code_.ptr[scratch + from + (disp + (alone ? 0 : access.size - 1))]);
  code_.pext_state(scratch, scratch, page_mask_of(access));
  go_on_if_rcx_zero(site, linear);
  code_.mov(address, code_.element(address, fast_tlb().addend));
  return {base, kAddress, disp};
}

// The same for a constant address, whose entry is known: the tag must be just its page. False, and
// nothing emitted: it needs a look at each byte.
bool BlockTranslator::probe_constant(const Item& item, const Access& access, uint64_t linear,
                                     HostMemory& memory) {
  const uint64_t offset = linear % kPageSize;
  if (offset + access.size > kPageSize || (access.aligned && linear % 16 != 0)) return false;
  if (access.aligned_32 && linear % 32 != 0) return false;
  const Reg64 address(kAddress), scratch(kScratch);
  const uint32_t site = new_probe(item, access);
  const Linear constant{Linear::Kind::Constant, 0, 0, linear};
  const auto low = static_cast<int32_t>(linear);
  const bool is_short = static_cast<uint64_t>(static_cast<int64_t>(low)) == linear;
  const auto index = static_cast<unsigned>(linear / kPageSize % FastTlb::kEntries);
  const auto page_offset = static_cast<int32_t>(offset);
  if (!is_short) code_.mov(address, linear);
  code_.mov(
      scratch,
      code_.ptr[Xbyak::RegExp(static_cast<size_t>(Assembler::absolute(&tags(access)[index])))]);
  if (is_short) {
    code_.lea(scratch, code_.ptr[scratch + (low - page_offset)]);
  } else {
    code_.lea(scratch, code_.ptr[address + scratch - page_offset]);
  }
  go_on_if_rcx_zero(site, constant);
  code_.mov(is_short ? address : scratch, code_.ptr[Xbyak::RegExp(static_cast<size_t>(
                                              Assembler::absolute(&fast_tlb().addend[index])))]);
  memory = is_short ? HostMemory{kAddress, kNoIndex, low} : HostMemory{kAddress, kScratch, 0};
  return true;
}

HostMemory BlockTranslator::probe_operand(const Item& item, const ZydisDecodedOperand& memory,
                                          bool aligned) {
  if (place_of(item) != nullptr) return group_access(item);
  const bool write = (memory.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  const Access access{code_.here(), static_cast<uint16_t>(memory.size / 8), write, aligned,
                      must_be_aligned_32(item.zy, memory)};
  if (is_base_only(item, memory)) {
    const auto& mem = memory.mem;
    const auto disp = static_cast<int32_t>(mem.disp.has_displacement ? mem.disp.value : 0);
    const uint8_t home = kHostRegister[guest_number(mem.base)];
    if (const Keep* keep = keep_of(item)) return kept_access(item, *keep, home, disp);
    return probe_base(item, access, home, disp);
  }
  uint64_t linear = 0;
  HostMemory constant;
  if (constant_linear(item, memory, linear) && probe_constant(item, access, linear, constant)) {
    return constant;
  }
  emit_linear(item, memory, true);
  return probe(item, access);
}

HostMemory BlockTranslator::probe_stack(const Item& item, uint8_t base, int32_t offset,
                                        bool write) {
  if (place_of(item) != nullptr) return group_access(item);
  const auto size = static_cast<uint16_t>(stack_bytes());
  const Access access{code_.here(), size, write, false};
  if (const Keep* keep = keep_of(item)) {
    return kept_access(item, *keep, kHostRegister[base], offset);
  }
  if (!is_code32()) return probe_base(item, access, kHostRegister[base], offset);
  code_.lea(Reg32(kAddress), code_.ptr[Reg64(kHostRegister[base]) + offset]);
  return probe(item, access);
}

HostMemory BlockTranslator::combine(HostMemory memory) {
  code_.lea(Reg64(kAddress), code_.ptr[host(memory)]);
  return {};
}

}  // namespace trapeze::soft
