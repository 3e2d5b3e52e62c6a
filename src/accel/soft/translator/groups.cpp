// Groups: accesses through one base register that share a TLB probe.
#include <algorithm>

#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg32;
using Xbyak::Reg64;

namespace {

// Wider groups cross pages more often, and then each instruction needs its own probe.
constexpr int32_t kMaxGroupBytes = 256;
constexpr int32_t kMaxDisp = 1 << 20;

bool is_base_register(ZydisRegister reg) {
  return reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15;
}

// True when the instruction adds a constant to the 64-bit register.
bool is_adjustment(const ZydisDecodedInstruction& zy, const ZydisDecodedOperand* operands,
                   uint8_t base, int64_t& by) {
  const bool is_base = operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                       operands[0].reg.value == ZYDIS_REGISTER_RAX + base;
  if (!is_base) return false;
  switch (static_cast<int>(zy.mnemonic)) {
    case ZYDIS_MNEMONIC_INC:
      by = 1;
      return true;
    case ZYDIS_MNEMONIC_DEC:
      by = -1;
      return true;
    case ZYDIS_MNEMONIC_ADD:
      by = operands[1].imm.value.s;
      return operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    case ZYDIS_MNEMONIC_SUB:
      by = -operands[1].imm.value.s;
      return operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    case ZYDIS_MNEMONIC_LEA:
      by = operands[1].mem.disp.has_displacement ? operands[1].mem.disp.value : 0;
      return zy.address_width == 64 && operands[1].mem.base == operands[0].reg.value &&
             operands[1].mem.index == ZYDIS_REGISTER_NONE;
    default:
      return false;
  }
}

}  // namespace

// The access of an item, when it is one that a group can hold.
bool BlockTranslator::reach_of(const Item& item, Reach& reach) const {
  const ZydisDecodedInstruction& zy = item.zy;
  switch (item.form) {
    case Form::Push:
    case Form::Pop: {
      if (zy.operand_width != 64 || item.operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        return false;
      if (item.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
          ZydisRegisterGetClass(item.operands[0].reg.value) != ZYDIS_REGCLASS_GPR64) {
        return false;
      }
      const bool push = item.form == Form::Push;
      if (!push && item.insn.dst / 8 == kRspNumber) return false;
      reach = {kRspNumber, push ? -8 : 0, 8, push, false};
      return true;
    }
    case Form::Return:
      reach = {kRspNumber, 0, 8, false, false};
      return zy.operand_width == 64 && zy.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
    case Form::Call:
      reach = {kRspNumber, -8, 8, true, false};
      return item.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    case Form::Plain:
    case Form::X87:
      break;
    case Form::Interpret:
    case Form::Nothing:
    case Form::Lea:
    case Form::Leave:
    case Form::Jump:
    case Form::JumpIf:
    case Form::PushFlags:
    case Form::DisableInterrupts:
    case Form::EnableInterrupts:
    case Form::SwapGs:
    case Form::CompareExchangeWide:
    case Form::ReadSegment:
    case Form::String:
      return false;
  }
  const ZydisDecodedOperand* memory = nullptr;
  for (unsigned i = 0; i < zy.operand_count_visible; ++i) {
    if (item.operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) memory = &item.operands[i];
  }
  if (memory == nullptr || !can_be_inside(item)) return false;
  const auto& mem = memory->mem;
  if (!is_base_register(mem.base) || mem.index != ZYDIS_REGISTER_NONE) return false;
  if (mem.segment == ZYDIS_REGISTER_FS || mem.segment == ZYDIS_REGISTER_GS) return false;
  if (zy.address_width != 64) return false;
  const int64_t disp = mem.disp.has_displacement ? mem.disp.value : 0;
  if (disp < -kMaxDisp || disp > kMaxDisp || memory->size == 0) return false;
  reach.base = gpr_slot(mem.base) / 8;
  reach.disp = static_cast<int32_t>(disp);
  reach.size = memory->size / 8U;
  reach.aligned_32 = must_be_aligned_32(zy, *memory);
  reach.aligned = reach.aligned_32 || must_be_aligned(zy, *memory);
  reach.write = (memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
  return true;
}

// True when the item's code leaves R11 alone (its own access through the group aside).
bool BlockTranslator::can_be_inside(const Item& item) const {
  switch (item.form) {
    case Form::Nothing:
      return true;
    case Form::Lea:
      return is_direct_lea(item);
    case Form::Plain: {
      if (is_vex(item.zy)) return is_vex_groupable(item);
      PlainOperands operands;
      return is_encodable(item) && gather(item, operands) && assign_scratch(operands, false);
    }
    case Form::Interpret:
    case Form::Push:
    case Form::Pop:
    case Form::Leave:
    case Form::Jump:
    case Form::JumpIf:
    case Form::Call:
    case Form::Return:
    case Form::PushFlags:
    case Form::EnableInterrupts:
    case Form::SwapGs:
    case Form::CompareExchangeWide:
    case Form::ReadSegment:
    case Form::String:
      break;
    case Form::DisableInterrupts:
      return translation_.table != FastTable::User;
    case Form::X87:
      return item.zy.mnemonic != ZYDIS_MNEMONIC_FLDCW;  // it may ask the interpreter
  }
  return false;
}

// What the item does to the group's base: false when it changes in an unknown way.
bool BlockTranslator::follow_base(const Item& item, uint8_t base, int32_t& moved) const {
  if (item.form == Form::Push || item.form == Form::Pop) {
    if (item.zy.operand_width != 64 && base == kRspNumber) return false;
    if (item.form == Form::Pop && item.insn.dst / 8 == base) return false;
    if (base == kRspNumber) moved += item.form == Form::Push ? -8 : 8;
    return true;
  }
  int64_t by = 0;
  if ((item.form == Form::Plain || item.form == Form::Lea) &&
      is_adjustment(item.zy, item.operands, base, by)) {
    if (by < -kMaxDisp || by > kMaxDisp) return false;
    moved += static_cast<int32_t>(by);
    return moved > -kMaxDisp && moved < kMaxDisp;
  }
  for (unsigned i = 0; i < item.zy.operand_count; ++i) {
    const ZydisDecodedOperand& operand = item.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    if ((operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0) continue;
    const ZydisRegister name = operand.reg.value;
    if (name < ZYDIS_REGISTER_AL || name > ZYDIS_REGISTER_R15) continue;
    if (gpr_slot(name) / 8 == base) return false;
  }
  return true;
}

// Adds items to a group that begins with `first`. Returns how many accesses it has.
unsigned BlockTranslator::extend_group(unsigned first, Group& group,
                                       std::vector<Place>& places) const {
  unsigned accesses = 0;
  int32_t moved = 0;
  for (unsigned i = first; i < items_.size(); ++i) {
    const Item& item = items_[i];
    Place place;
    Reach reach;
    if (reach_of(item, reach)) {
      if (reach.base != group.base) break;
      const int32_t disp = reach.disp + moved;
      const int32_t low = accesses == 0 ? disp : std::min(group.low, disp);
      const int32_t end = disp + static_cast<int32_t>(reach.size);
      const int32_t high = accesses == 0 ? end : std::max(group.high, end);
      if (high - low > kMaxGroupBytes) break;
      const int32_t common = reach.aligned_32 && group.aligned_32 ? 32 : 16;
      if (reach.aligned && group.aligned && (disp - group.alignment) % common != 0) break;
      if (reach.aligned && (reach.aligned_32 || !group.aligned_32)) {
        group.aligned = true;
        group.aligned_32 = reach.aligned_32;
        group.alignment = disp;
      }
      group.low = low;
      group.high = high;
      group.write |= reach.write;
      group.last = i;
      place.access = true;
      place.disp = disp;
      ++accesses;
    } else if ((item.form == Form::Plain || item.form == Form::X87) && has_memory(item)) {
      break;
    } else if (!can_be_inside(item)) {
      break;
    }
    places.push_back(place);
    if (item.form == Form::Call || item.form == Form::Return) break;
    if (!follow_base(item, group.base, moved)) break;
  }
  return accesses;
}

void BlockTranslator::plan_groups() {
  places_.assign(items_.size(), Place{});
  if (is_code32()) return;  // addresses wrap: an access may be far from its base
  for (unsigned i = 0; i < items_.size();) {
    Reach reach;
    if (!reach_of(items_[i], reach)) {
      ++i;
      continue;
    }
    Group group;
    group.first = i;
    group.base = reach.base;
    std::vector<Place> places;
    if (extend_group(i, group, places) < 2) {
      ++i;
      continue;
    }
    // The check of the group's first byte must tell of all aligned accesses.
    const int32_t to = group.aligned_32 ? 32 : 16;
    if (group.aligned) group.low -= ((group.low - group.alignment) % to + to) % to;
    if (group.aligned && group.high - group.low <= 16) group.high = group.low + 17;
    const auto number = static_cast<uint32_t>(groups_.size());
    groups_.push_back(group);
    for (unsigned k = i; k <= group.last; ++k) {
      places_[k] = places[k - i];
      places_[k].group = number;
    }
    i = group.last + 1;
  }
}

uint32_t BlockTranslator::group_of(const Item& item) const {
  return places_[static_cast<size_t>(&item - items_.data())].group;
}

const BlockTranslator::Place* BlockTranslator::place_of(const Item& item) const {
  if (!use_groups_) return nullptr;
  const Place& place = places_[static_cast<size_t>(&item - items_.data())];
  return place.group != kNone && place.access ? &place : nullptr;
}

// The item's access through its group; the first one makes the probe.
HostMemory BlockTranslator::group_access(const Item& item) {
  const Place& place = *place_of(item);
  Group& group = groups_[place.group];
  if (group.site == kNone) {
    const uint32_t start = code_.here();
    const uint8_t home = kHostRegister[group.base];
    if (const Keep* keep = keep_of(items_[group.first])) {
      group.site = kKeptSite;
      combine(kept_access(item, *keep, home, group.low));
      return {kAddress, kNoIndex, place.disp - group.low};
    }
    const auto size = static_cast<uint16_t>(group.high - group.low);
    const Access access{start, size, group.write, group.aligned, group.aligned_32};
    group.site = static_cast<uint32_t>(translator_.sites_.size());
    if (home == kInMemory) {
      code_.load(Reg64(kAddress), gpr_offset(group.base));
      code_.lea(Reg64(kAddress), code_.ptr[Reg64(kAddress) + group.low]);
      combine(probe(item, access));
    } else {
      combine(probe_base(item, access, home, group.low));
    }
    translator_.sites_[group.site].group = true;
    waiting_for_next_.pop_back();  // `next` is the code for one by one
  }
  return {kAddress, kNoIndex, place.disp - group.low};
}

// RSP changes by pushes and pops. Inside a group accesses do not need it, and nothing can go wrong:
// one LEA does for several.
void BlockTranslator::move_rsp(const Item& item, int by) {
  pending_rsp_ += by;
  if (!is_in_group(item)) settle_rsp();
}

void BlockTranslator::settle_rsp() {
  if (pending_rsp_ == 0) return;
  add_to_rsp(pending_rsp_);
  pending_rsp_ = 0;
}

void BlockTranslator::add_to_rsp(int by) {
  const auto sum = code_.ptr[Reg64(kHostRsp) + by];
  if (is_code32()) {
    code_.lea(Reg32(kHostRsp), sum);
  } else {
    code_.lea(Reg64(kHostRsp), sum);
  }
}

// True when the item needs the current RSP, inside a group.
bool BlockTranslator::uses_rsp(const Item& item) const {
  const bool moves_only = item.form == Form::Push || item.form == Form::Pop;
  const bool may_do_without = moves_only || item.form == Form::Plain ||
                              item.form == Form::Nothing || item.form == Form::Lea;
  if (!may_do_without) return true;
  const auto is_rsp = [](ZydisRegister reg) {
    return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15 && gpr_slot(reg) / 8 == kRspNumber;
  };
  for (unsigned i = 0; i < item.zy.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = item.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_REGISTER && is_rsp(operand.reg.value)) return true;
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (item.form == Form::Lea && (is_rsp(operand.mem.base) || is_rsp(operand.mem.index)))
      return true;
  }
  return false;
}

// The items of each group one by one, for when its probe fails.
void BlockTranslator::emit_ungrouped() {
  use_groups_ = false;
  for (const Group& group : groups_) {
    if (group.site == kKeptSite) continue;
    translator_.sites_[group.site].next = code_.here();
    cached_ = kInMemory;
    x87_before_ = group.x87_before;
    for (unsigned i = group.first; i <= group.last; ++i) {
      next_item_is_here();
      emit_item(items_[i]);
    }
    next_item_is_here();
    if (group.cached_after != kInMemory && group.cached_after != cached_) {
      code_.load(Reg64(kScratch), gpr_offset(group.cached_after));
    }
    code_.jump_to(group.after);
  }
}

}  // namespace trapeze::soft
