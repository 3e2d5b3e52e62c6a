// Control transfers. A loop of translated blocks always passes a look at Cpu::attention: before
// direct jumps backwards, and before indirect jumps and returns. One of calls alone fills the
// return stack, and leaves.
#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"
#include "base/check.h"

namespace trapeze::soft {

using Xbyak::Reg64;
namespace regs = Xbyak::util;

namespace {

constexpr unsigned kJrcxzBytes = 2, kJumpIfBytes = 6, kIndirectBytes = 8;

bool is_canonical48(uint64_t linear) {
  return static_cast<uint64_t>(static_cast<int64_t>(linear << 16) >> 16) == linear;
}

}  // namespace

bool BlockTranslator::target_of(const Item& item, uint64_t& target) const {
  if (item.operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return false;
  // In 32-bit code with a 16-bit operand the target would lose its upper half.
  if (is_code32() && item.zy.operand_width != 32) return false;
  target = wrap(translation_.linear + static_cast<uint64_t>(item.insn.imm64));
  return is_canonical48(target);
}

void BlockTranslator::check_attention(const Item& item) {
  code_.load(regs::ecx, offsetof(Cpu, attention) + Attention::go_offset());
  jump_to_island_if_rcx_zero(new_site(item, SiteKind::Attention));
}

// JRCXZ reaches 127 bytes, so its target comes behind the next jump that is always taken.
void BlockTranslator::jump_to_island_if_rcx_zero(uint32_t site) {
  code_.keep_in_line(kJrcxzBytes);
  code_.db(0xe3);
  code_.db(0);
  islands_.push_back({code_.here() - 1, site});
}

// Goes on when RCX is 0, else at the place it gives, which is yet to be filled in. The islands must
// be emitted right behind.
uint32_t BlockTranslator::go_on_if_rcx_zero() {
  code_.keep_in_line(kJrcxzBytes);
  code_.db(0xe3);
  code_.db(static_cast<int>(kJumpBytes * (1 + islands_.size())));
  return code_.jump();
}

void BlockTranslator::emit_islands() {
  for (const Island& island : islands_) {
    const uint32_t distance = code_.here() - (island.at + 1);
    CHECK(distance < 128);
    code_.put8(island.at, static_cast<uint8_t>(distance));
    cold(code_.jump(), island.site, {});
  }
  islands_.clear();
}

// Leaves before the instruction when the return stack is full.
void BlockTranslator::check_return_stack(const Item& item) {
  code_.movzx(regs::ecx, regs::sp);
  jump_to_island_if_rcx_zero(new_site(item, SiteKind::ReturnStackFull));
}

uint32_t BlockTranslator::new_exit(uint64_t target, bool after_call) {
  const auto number = static_cast<uint32_t>(translator_.exits_.size());
  Exit& exit = translator_.exits_.emplace_back();
  exit.target = target;
  exit.from = index_;
  exit.after_call = after_call;
  return number;
}

// Where the host returns to: the guest's return address is on top still.
void BlockTranslator::emit_landing(const Item& item) {
  code_.lea(regs::rsp, code_.ptr[regs::rsp + 8]);
  const uint32_t exit = new_exit(next_rip_of(item), true);
  code_.keep_in_line(kJumpBytes);
  cold_exits_.push_back({code_.jump(), exit});
}

void BlockTranslator::emit_exit(uint64_t target) {
  const uint32_t exit = new_exit(target);
  code_.keep_in_line(kJumpBytes);
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
  code_.keep_in_line(kJumpIfBytes);
  cold_exits_.push_back({code_.jump_if(item.zy.opcode & 15U), exit});
  if (&item == &items_.back()) emit_exit(next_rip_of(item));
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
  jump_by_table();
  return true;
}

// R11 = the target of an indirect jump or call. False: left to the interpreter, nothing emitted.
bool BlockTranslator::load_target(const Item& item) {
  if (!is_stack_wide(item) || item.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR) return false;
  const ZydisDecodedOperand& operand = item.operands[0];
  if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    check_attention(item);
    const uint8_t guest = item.insn.dst / 8;
    if (kHostRegister[guest] == kInMemory) {
      code_.load(Reg64(kAddress), gpr_offset(guest));
    } else {
      code_.mov(stack_register(kAddress), stack_register(kHostRegister[guest]));
    }
    return true;
  }
  if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || !may_address(item, operand)) return false;
  check_attention(item);
  const HostMemory memory = probe_operand(item, operand, false);
  code_.mov(stack_register(kAddress), code_.ptr[host(memory)]);
  return true;
}

// RCX = the index of R11's entry in the jump table.
void BlockTranslator::emit_jump_index() {
  static_assert(JumpTable::kEntries == 65536);
  code_.rorx(Reg64(kScratch), Reg64(kAddress), JumpTable::kShift);
  code_.movzx(regs::ecx, regs::cx);
}

// RCX = 0 when R11 is in the jump table.
void BlockTranslator::compare_with_jump_table() {
  const Reg64 address(kAddress), scratch(kScratch);
  emit_jump_index();
  code_.mov(scratch, code_.element(scratch, tables_.jumps.minus_linear));
  code_.lea(scratch, code_.ptr[address + scratch]);
}

// To where the jump table has R11.
void BlockTranslator::jump_by_table() {
  emit_jump_index();
  code_.keep_in_line(kIndirectBytes);
  code_.jmp(code_.element(Reg64(kScratch), tables_.jumps.code));
}

// Goes on when R11 is in the jump table, else to the interpreter, which has all to do still.
void BlockTranslator::look_up_target(const Item& item) {
  compare_with_jump_table();
  go_on_if_rcx_zero(new_site(item, SiteKind::Interpret), {});
}

bool BlockTranslator::emit_call(const Item& item) {
  uint64_t target = 0;
  if (target_of(item, target)) {
    check_return_stack(item);
    push_return_address(item);
    const uint32_t exit = new_exit(target);
    code_.keep_in_line(kJumpBytes);
    cold_exits_.push_back({code_.call(), exit});
    emit_landing(item);
    return true;
  }
  if (item.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return false;
  if (!load_target(item)) return false;
  look_up_target(item);
  emit_jump_index();
  code_.mov(Reg64(kScratch), code_.element(Reg64(kScratch), tables_.jumps.code));
  code_.store(TRAPEZE_STATE(spare), Reg64(kScratch));
  check_return_stack(item);
  push_return_address(item);
  code_.keep_in_line(kIndirectBytes);
  code_.call_state(TRAPEZE_STATE(spare));
  emit_landing(item);
  return true;
}

// To the guest's stack and, inverted for the comparison, to the return stack.
void BlockTranslator::push_return_address(const Item& item) {
  const uint64_t address = next_rip_of(item);
  const bool is_short = push_constant(item, address);
  settle_rsp();
  if (is_short) {
    code_.push(static_cast<uint32_t>(~address));
  } else {
    code_.not_(Reg64(kScratch));
    code_.push(Reg64(kScratch));
  }
}

bool BlockTranslator::emit_return(const Item& item) {
  if (!is_stack_wide(item) || item.zy.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR) return false;
  const Reg64 address(kAddress), scratch(kScratch);
  check_attention(item);
  const HostMemory memory = probe_stack(item, kRspNumber, 0, false);
  code_.mov(stack_register(kAddress), code_.ptr[host(memory)]);
  code_.mov(scratch, code_.ptr[regs::rsp + 8]);
  code_.lea(scratch, code_.ptr[address + scratch + 1]);
  const bool has_count = item.zy.operand_count_visible != 0;
  const int bytes =
      stack_bytes() + (has_count ? static_cast<int>(item.operands[0].imm.value.u & 0xffff) : 0);
  const uint32_t site = new_site(item, SiteKind::Interpret);
  cold_returns_.push_back({go_on_if_rcx_zero(), site, bytes});
  emit_islands();
  add_to_rsp(bytes);
  code_.keep_in_line(1);
  code_.ret();
  return true;
}

// R11: where to. Pops the frame that does not match, and looks in the jump table.
void BlockTranslator::emit_cold_returns() {
  for (const ColdReturn& item : cold_returns_) {
    code_.set_jump(item.jump, code_.here());
    Xbyak::Label empty, popped, found;
    code_.lea(regs::rsp, code_.ptr[regs::rsp + static_cast<int>(ReturnStack::kFrameBytes)]);
    code_.movzx(regs::ecx, regs::sp);
    code_.jrcxz(empty);
    code_.jmp(popped, Assembler::T_SHORT);
    code_.L(empty);
    code_.load(regs::rsp, TRAPEZE_STATE(return_top));
    code_.L(popped);
    compare_with_jump_table();
    code_.jrcxz(found);
    code_.store_imm32(TRAPEZE_STATE(site), item.site);
    code_.jump_to(translator_.stubs_.slow);
    code_.L(found);
    add_to_rsp(item.bytes);
    jump_by_table();
  }
}

}  // namespace trapeze::soft
