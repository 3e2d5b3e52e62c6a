// Control transfers. A loop of translated blocks always passes a look at Cpu::attention: before
// direct branches backwards, and before indirect ones.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"
#include "base/check.h"

namespace trapeze::soft {

using Xbyak::Reg64;
namespace regs = Xbyak::util;

namespace {

bool is_canonical48(uint64_t linear) {
  return static_cast<uint64_t>(static_cast<int64_t>(linear << 16) >> 16) == linear;
}

}  // namespace

bool BlockTranslator::target_of(const Item& item, uint64_t& target) const {
  if (item.operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return false;
  target = translation_.linear + static_cast<uint64_t>(item.insn.imm64);
  return is_canonical48(target);
}

void BlockTranslator::check_attention(const Item& item) {
  code_.load(regs::ecx, offsetof(Cpu, attention) + Attention::go_offset());
  code_.db(0xe3);  // jrcxz, to a jump behind the instruction's code
  code_.db(0);
  islands_.push_back({code_.here() - 1, new_site(item, SiteKind::Attention)});
}

// Goes on when RCX is 0, else to the site's cold code.
void BlockTranslator::go_on_if_rcx_zero(uint32_t site, const Linear& linear) {
  constexpr size_t kJumpBytes = 5;
  code_.db(0xe3);
  code_.db(static_cast<int>(kJumpBytes * (1 + islands_.size())));
  cold(code_.jump(), site, linear);
  emit_islands();
}

// JRCXZ reaches 127 bytes, so its target comes behind the next jump that is always taken.
void BlockTranslator::emit_islands() {
  for (const Island& island : islands_) {
    const uint32_t distance = code_.here() - (island.at + 1);
    CHECK(distance < 128);
    code_.put8(island.at, static_cast<uint8_t>(distance));
    cold(code_.jump(), island.site, {});
  }
  islands_.clear();
}

uint32_t BlockTranslator::new_exit(uint64_t target) {
  const auto number = static_cast<uint32_t>(translator_.exits_.size());
  Exit& exit = translator_.exits_.emplace_back();
  exit.target = target;
  exit.from = index_;
  return number;
}

void BlockTranslator::emit_exit(uint64_t target) {
  const uint32_t exit = new_exit(target);
  cold_exits_.push_back({code_.jump(), exit});
}

void BlockTranslator::emit_jump_if(const Item& item) {
  uint64_t target = 0;
  if (!target_of(item, target)) {
    emit_interpret(item);
    return;
  }
  if (target <= rip_of(item)) check_attention(item);
  const uint32_t exit = new_exit(target);
  cold_exits_.push_back({code_.jump_if(item.zy.opcode & 15U), exit});
  emit_exit(next_rip_of(item));
}

bool BlockTranslator::emit_jump(const Item& item) {
  uint64_t target = 0;
  if (target_of(item, target)) {
    if (target <= rip_of(item)) check_attention(item);
    emit_exit(target);
    return true;
  }
  if (item.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return false;
  if (!load_target(item)) return false;
  look_up_target(item);
  emit_jump_index();
  code_.jmp(code_.element(Reg64(kScratch), tables_.jumps.code));
  return true;
}

// R11 = the target of an indirect jump or call. False: left to the interpreter, nothing emitted.
bool BlockTranslator::load_target(const Item& item) {
  if (item.zy.operand_width != 64 || item.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR) {
    return false;
  }
  const ZydisDecodedOperand& operand = item.operands[0];
  if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    check_attention(item);
    const uint8_t guest = item.insn.dst / 8;
    if (kHostRegister[guest] == kInMemory) {
      code_.load(Reg64(kAddress), gpr_offset(guest));
    } else {
      code_.mov(Reg64(kAddress), Reg64(kHostRegister[guest]));
    }
    return true;
  }
  if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) return false;
  check_attention(item);
  const HostMemory memory = probe_operand(item, operand, false);
  code_.mov(Reg64(kAddress), code_.qword[host(memory)]);
  return true;
}

// RCX = the index of R11's entry in the jump table.
void BlockTranslator::emit_jump_index() {
  static_assert(JumpTable::kEntries == 65536);
  code_.rorx(Reg64(kScratch), Reg64(kAddress), JumpTable::kShift);
  code_.movzx(regs::ecx, regs::cx);
}

// Goes on when R11 is in the jump table, else to the interpreter, which has all to do still.
void BlockTranslator::look_up_target(const Item& item) {
  const Reg64 address(kAddress), scratch(kScratch);
  emit_jump_index();
  code_.mov(scratch, code_.element(scratch, tables_.jumps.minus_linear));
  code_.lea(scratch, code_.ptr[address + scratch]);
  go_on_if_rcx_zero(new_site(item, SiteKind::Interpret), {});
}

bool BlockTranslator::emit_call(const Item& item) {
  uint64_t target = 0;
  if (target_of(item, target)) {
    if (target <= rip_of(item)) check_attention(item);
    push_constant(item, next_rip_of(item));
    emit_exit(target);
    return true;
  }
  if (item.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return false;
  if (!load_target(item)) return false;
  look_up_target(item);
  emit_jump_index();
  code_.mov(Reg64(kScratch), code_.element(Reg64(kScratch), tables_.jumps.code));
  code_.store(TRAPEZE_STATE(spare), Reg64(kScratch));
  push_constant(item, next_rip_of(item));
  code_.jump_state(TRAPEZE_STATE(spare));
  return true;
}

bool BlockTranslator::emit_return(const Item& item) {
  if (item.zy.operand_width != 64 || item.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR) {
    return false;
  }
  check_attention(item);
  const HostMemory memory = probe_stack(item, 4, 0, false);
  code_.mov(Reg64(kAddress), code_.qword[host(memory)]);
  look_up_target(item);
  const bool has_count = item.zy.operand_count_visible != 0;
  const int bytes = 8 + (has_count ? static_cast<int>(item.operands[0].imm.value.u & 0xffff) : 0);
  code_.lea(Reg64(kHostRsp), code_.ptr[Reg64(kHostRsp) + bytes]);
  emit_jump_index();
  code_.jmp(code_.element(Reg64(kScratch), tables_.jumps.code));
  return true;
}

}  // namespace trapeze::soft
