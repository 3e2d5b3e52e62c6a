// VEX-encoded instructions: AVX, AVX2, FMA, F16C, BMI1, BMI2.
//
// Vector registers keep their numbers, as those of SSE do: while they are loaded, the host's YMM
// registers are the guest's, and SSE instructions between leave the upper halves alone on the host
// as on the guest. General registers get scratch registers where they live in memory.
#include <array>

#include "accel/soft/exec/vex.h"
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg64;

namespace {

bool is_general(ZydisRegister reg) { return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15; }
bool is_vector(ZydisRegister reg) {
  return reg >= ZYDIS_REGISTER_XMM0 && reg <= ZYDIS_REGISTER_YMM15;
}

uint8_t number_of(ZydisRegister reg) { return static_cast<uint8_t>(ZydisRegisterGetId(reg)); }

// Flags, and registers that the host has in the same place: RDX, of MULX.
bool may_be_implicit(ZydisRegister reg) {
  return ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_FLAGS || reg == ZYDIS_REGISTER_MXCSR ||
         reg == ZYDIS_REGISTER_EDX || reg == ZYDIS_REGISTER_RDX;
}

VexBytes bytes_of(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands,
                  std::span<const uint8_t> bytes) {
  VexBytes vex;
  vex.map = zy.raw.vex.m_mmmm;
  vex.pp = zy.raw.vex.pp;
  vex.opcode = zy.opcode;
  vex.w = exec::vex_w(zy, operands);
  vex.l = zy.raw.vex.L != 0;
  // The immediate is the last byte, also where it names a register.
  bool has_immediate = zy.raw.imm[0].size != 0;
  for (unsigned i = 0; i < zy.operand_count_visible; ++i) {
    has_immediate |= operands[i].encoding == ZYDIS_OPERAND_ENCODING_IS4;
  }
  vex.has_immediate = has_immediate;
  if (has_immediate) vex.immediate = bytes[zy.length - 1U];
  return vex;
}

}  // namespace

// A general register operand.
struct BlockTranslator::VexGpr {
  uint8_t* host = nullptr;  // in the plan
  uint8_t guest = 0;
  bool read = false, written = false;
  bool is_rm = false;
};

bool BlockTranslator::must_be_aligned_32(const ZydisDecodedInstruction& zy,
                                         const ZydisDecodedOperand& memory) {
  return is_vex(zy) && memory.size == 256 && is_aligned_vex(zy);
}

// A masked move must not have a page filled for it, so it needs a probe of its own.
bool BlockTranslator::is_vex_groupable(const Item& item) const {
  VexPlan plan;
  return !is_masked_move(item.zy) && plan_vex(item, false, plan);
}

// `one_result`: what is written may share a scratch register with what is read.
bool BlockTranslator::place_vex_gprs(std::span<VexGpr> uses, std::span<const uint8_t> scratch,
                                     bool one_result, VexPlan& plan) {
  const auto take = [&scratch](uint8_t& host) {
    if (scratch.empty()) return false;
    host = scratch.front();
    scratch = scratch.subspan(1);
    return true;
  };
  for (VexGpr& use : uses) {
    *use.host = kHostRegister[use.guest];
    if (*use.host != kInMemory || !use.read) continue;
    if (use.is_rm && !use.written) {
      plan.rm_in_slot = true;
      *use.host = use.guest;
      continue;
    }
    for (unsigned i = 0; i < plan.load_count; ++i) {
      if (plan.loads[i].guest == use.guest) *use.host = plan.loads[i].host;
    }
    if (*use.host != kInMemory) continue;
    if (plan.load_count == 2 || !take(*use.host)) return false;
    plan.loads[plan.load_count++] = {*use.host, use.guest};
  }
  for (VexGpr& use : uses) {
    if (kHostRegister[use.guest] != kInMemory || !use.written) continue;
    if (*use.host == kInMemory) {
      for (unsigned i = 0; i < plan.store_count; ++i) {
        if (plan.stores[i].guest == use.guest) *use.host = plan.stores[i].host;
      }
      if (*use.host != kInMemory) continue;
      if (one_result && plan.load_count != 0) {
        *use.host = plan.loads[0].host;
      } else if (!take(*use.host)) {
        return false;
      }
    }
    if (plan.store_count == 2) return false;
    plan.stores[plan.store_count++] = {*use.host, use.guest};
  }
  return true;
}

// `address_free`: R11 may be taken.
bool BlockTranslator::plan_vex(const Item& item, bool address_free, VexPlan& plan) const {
  std::array<VexGpr, 3> gprs;
  size_t gpr_count = 0;
  for (unsigned i = 0; i < item.zy.operand_count; ++i) {
    const ZydisDecodedOperand& operand = item.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) continue;
    const bool is_explicit = operand.visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
      if (!is_explicit || operand.mem.type != ZYDIS_MEMOP_TYPE_MEM) return false;
      plan.memory = &operand;
      continue;
    }
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return false;
    const ZydisRegister name = operand.reg.value;
    if (!is_explicit) {
      if (!may_be_implicit(name)) return false;
      continue;
    }
    uint8_t* place = nullptr;
    switch (static_cast<int>(operand.encoding)) {
      case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        place = &plan.reg;
        break;
      case ZYDIS_OPERAND_ENCODING_NDSNDD:
        place = &plan.vvvv;
        plan.has_vvvv = true;
        break;
      case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        place = &plan.rm;
        break;
      case ZYDIS_OPERAND_ENCODING_IS4:
        continue;  // in the immediate, which stays
      default:
        return false;
    }
    if (is_vector(name)) {
      *place = number_of(name);
      continue;
    }
    if (!is_general(name) || gpr_count == gprs.size()) return false;
    plan.has_gpr = true;
    VexGpr& use = gprs[gpr_count++];
    use.host = place;
    use.guest = number_of(name);
    use.read = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
    use.written = (operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    use.is_rm = place == &plan.rm;
  }
  const uint8_t scratch[] = {kScratch, kAddress};
  const size_t free = address_free && plan.memory == nullptr ? 2 : 1;
  const bool one_result = item.zy.mnemonic != ZYDIS_MNEMONIC_MULX;
  return place_vex_gprs(std::span(gprs).first(gpr_count), std::span(scratch).first(free),
                        one_result, plan);
}

bool BlockTranslator::emit_vex(const Item& item) {
  VexPlan plan;
  if (!plan_vex(item, !is_in_group(item), plan)) return false;
  if (plan.memory != nullptr && !may_address(item, *plan.memory)) return false;
  const bool uses_scratch = plan.load_count != 0 || plan.store_count != 0;
  if (plan.memory != nullptr || uses_scratch) cached_ = kInMemory;
  VexBytes vex = bytes_of(item.zy, item.operands, item.bytes);
  // ModRM.reg is part of the opcode where no operand is there.
  bool reg_is_operand = false;
  for (unsigned i = 0; i < item.zy.operand_count_visible; ++i) {
    reg_is_operand |= item.operands[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;
  }
  vex.reg = reg_is_operand ? plan.reg : static_cast<uint8_t>(item.zy.raw.modrm.reg & 7U);
  vex.vvvv = plan.vvvv;
  if ((item.zy.attributes & ZYDIS_ATTRIB_HAS_MODRM) == 0) {  // VZEROUPPER, VZEROALL
    code_.db(0xc5);
    code_.db(vex.l ? 0xfc : 0xf8);
    code_.db(vex.opcode);
    return true;
  }
  HostMemory memory;
  if (plan.memory != nullptr) {
    memory = probe_operand(item, *plan.memory, must_be_aligned(item.zy, *plan.memory));
    if (uses_scratch) memory = free_scratch(memory);
  }
  for (unsigned i = 0; i < plan.load_count; ++i) {
    code_.load(Reg64(plan.loads[i].host), gpr_offset(plan.loads[i].guest));
  }
  if (plan.memory != nullptr) {
    code_.encode_vex_memory(vex, memory);
  } else if (plan.rm_in_slot) {
    code_.encode_vex_slot(vex, gpr_offset(plan.rm));
  } else {
    code_.encode_vex_register(vex, plan.rm);
  }
  for (unsigned i = 0; i < plan.store_count; ++i) {
    code_.store(gpr_offset(plan.stores[i].guest), Reg64(plan.stores[i].host));
    slot_written(plan.stores[i].guest);
  }
  return true;
}

}  // namespace trapeze::soft
