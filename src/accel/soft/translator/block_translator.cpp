#include "accel/soft/translator/block_translator.h"

#include "accel/soft/cache/bind.h"
#include "accel/soft/exec/dispatch.h"
#include "accel/soft/translator/registers.h"
#include "base/check.h"

namespace trapeze::soft {
namespace {

constexpr uint32_t kEntryBytes = 21;  // of the check at the entry

// False for what goes on with the next instruction, if it does not ask C++.
bool may_leave(Form form) {
  for (const Form stays :
       {Form::Plain, Form::Nothing, Form::Lea, Form::Push, Form::Pop, Form::X87}) {
    if (form == stays) return false;
  }
  return true;
}

}  // namespace

using Xbyak::Reg64;
namespace regs = Xbyak::util;

BlockTranslator::BlockTranslator(Translator& translator, Translation& translation, uint32_t index)
    : translator_(translator),
      code_(translator.code_),
      tables_(*translator.cpu_.translator.tables),
      translation_(translation),
      index_(index) {}

bool BlockTranslator::decode(const Block& block, std::span<const uint8_t> bytes) {
  items_.reserve(BlockCache::kMaxBlockInsns);
  for (unsigned i = 0; i < block.count; ++i) {
    const Insn& insn = block.insns[i];
    if (insn.start + insn.length > bytes.size()) return false;
    const std::span<const uint8_t> here = bytes.subspan(insn.start, insn.length);
    Decoded decoded;
    const DecodeStatus status =
        translator_.decoder_.decode(block.code_size, here, insn.start, decoded);
    if (status == DecodeStatus::Ok &&
        (decoded.insn.length != insn.length || decoded.insn.mnemonic != insn.mnemonic)) {
      return false;
    }
    if (status == DecodeStatus::Ok) {
      decoded.insn = insn;
      add(decoded, here);
    } else {  // the interpreter raises what is due
      Item& item = items_.emplace_back();
      item.insn = insn;
      item.form = Form::Interpret;
      open_ended_ = false;
    }
  }
  return true;
}

void BlockTranslator::add(const Decoded& decoded, std::span<const uint8_t> bytes) {
  Item& item = items_.emplace_back();
  item.insn = decoded.insn;
  item.bytes = bytes;
  item.zy = decoded.zy;
  std::copy(std::begin(decoded.operands), std::end(decoded.operands), item.operands);
  item.form = Form::Interpret;
  const bool is_known =
      decoded.zy.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || is_vex(decoded.zy);
  if (item.insn.run != exec::undefined_opcode() && is_known) {
    item.form = form_of(decoded.zy, decoded.operands);
    if (uses_sse_state(decoded.zy)) translation_.uses_sse = true;
    if (uses_avx_state(decoded.zy)) translation_.uses_sse = translation_.uses_avx = true;
    if (uses_x87_state(decoded.zy)) translation_.uses_x87 = true;
  }
  open_ended_ = !ends_block(decoded);
}

uint16_t BlockTranslator::may_extend() const {
  if (translation_.crosses || items_.empty()) return 0;
  const Item& last = items_.back();
  uint64_t target = 0;
  if (last.form != Form::JumpIf || !target_of(last, target) || target <= rip_of(last)) return 0;
  return static_cast<uint16_t>(last.insn.start + last.insn.length);
}

bool BlockTranslator::extend(std::span<const uint8_t> bytes) {
  uint16_t at = may_extend();
  while (items_.size() < BlockCache::kMaxBlockInsns) {
    Decoded decoded;
    const DecodeStatus status =
        translator_.decoder_.decode(translation_.code_size, bytes.subspan(at), at, decoded);
    if (status != DecodeStatus::Ok) return false;
    // Checks at the entry load registers: not for code that may not be reached.
    if (uses_sse_state(decoded.zy) && !translation_.uses_sse) return false;
    if (uses_avx_state(decoded.zy) && !translation_.uses_avx) return false;
    if (uses_x87_state(decoded.zy) && !translation_.uses_x87) return false;
    bind(decoded, translator_.model_);
    const unsigned length = decoded.insn.length;
    add(decoded, bytes.subspan(at, length));
    at = static_cast<uint16_t>(at + length);
    if (!open_ended_) return true;
  }
  return false;
}

void BlockTranslator::emit() {
  Item first{};
  if (!items_.empty()) first = items_.front();
  // Loops jump to the body: it begins on a boundary that the host's decoders like.
  while ((code_.here() + kEntryBytes) % 16 != 0) code_.db(0xcc);
  translation_.entry = code_.here();
  code_.load(regs::ecx, TRAPEZE_STATE(tag));
  code_.db(0x8d);  // lea ecx, [rcx + disp32]
  code_.db(0x89);
  code_.dd(0);
  translation_.tag_at = code_.here() - 4;
  code_.skip_jump_if_rcx_zero();
  cold(code_.jump(), new_site(first, SiteKind::Entry), {});
  translation_.body = code_.here();
  DCHECK(translation_.body - translation_.entry == kEntryBytes);
  if (translation_.uses_sse) {
    check_state(first, SiteKind::Sse,
                translation_.uses_avx ? TRAPEZE_STATE(avx_absent) : TRAPEZE_STATE(sse_absent));
  }
  if (translation_.uses_x87) check_state(first, SiteKind::X87, TRAPEZE_STATE(x87_absent));
  translation_.live_body = code_.here();
  plan_groups();
  plan_keeps();
  for (unsigned i = 0; i < items_.size(); ++i) {
    next_item_is_here();
    if (places_[i].group != kNone && groups_[places_[i].group].first == i) {
      groups_[places_[i].group].x87_before = x87_before_;
    }
    emit_item(items_[i]);
    if (places_[i].group != kNone && groups_[places_[i].group].last == i) {
      settle_rsp();
      groups_[places_[i].group].after = code_.here();
      groups_[places_[i].group].cached_after = cached_;
    }
  }
  if (open_ended_) {
    next_item_is_here();
    settle_fip();
    emit_exit(next_rip_of(items_.back()));
  }
  waiting_for_next_.clear();
  translation_.end = code_.here();
  code_.restart(translator_.cold_here_);
  emit_ungrouped();
  emit_cold();
  translator_.cold_here_ = code_.here();
  code_.restart(translation_.end);
}

void BlockTranslator::check_state(const Item& first, SiteKind kind, size_t absent) {
  code_.load(regs::ecx, absent);
  code_.skip_jump_if_rcx_zero();
  const uint32_t site = new_site(first, kind);
  cold(code_.jump(), site, {});
  translator_.sites_[site].next = code_.here();
}

void BlockTranslator::next_item_is_here() {
  for (const uint32_t number : waiting_for_next_) {
    Site& site = translator_.sites_[number];
    site.next = code_.here();
    site.cached = cached_;
  }
  waiting_for_next_.clear();
}

void BlockTranslator::emit_item(const Item& item) {
  bool done = false;
  if (pending_rsp_ != 0 && uses_rsp(item)) settle_rsp();
  if (item.form != Form::Plain && item.form != Form::Nothing) cached_ = kInMemory;
  if (may_leave(item.form)) settle_fip();
  switch (item.form) {
    case Form::Interpret:
      break;
    case Form::Plain:
      done = emit_plain(item);
      break;
    case Form::Nothing:
      done = true;
      break;
    case Form::Lea:
      done = emit_lea(item);
      break;
    case Form::Push:
      done = emit_push(item);
      break;
    case Form::Pop:
      done = emit_pop(item);
      break;
    case Form::Leave:
      done = emit_leave(item);
      break;
    case Form::Jump:
      done = emit_jump(item);
      break;
    case Form::JumpIf:
      emit_jump_if(item);
      done = true;
      break;
    case Form::Call:
      done = emit_call(item);
      break;
    case Form::Return:
      done = emit_return(item);
      break;
    case Form::PushFlags:
      done = emit_push_flags(item);
      break;
    case Form::DisableInterrupts:
      done = emit_disable_interrupts();
      break;
    case Form::SwapGs:
      done = emit_swap_gs();
      break;
    case Form::EnableInterrupts:
      done = emit_enable_interrupts(item);
      break;
    case Form::CompareExchangeWide:
      done = emit_compare_exchange_wide(item);
      break;
    case Form::ReadSegment:
      done = emit_read_segment(item);
      break;
    case Form::X87:
      done = emit_x87(item);
      break;
    case Form::String:
      done = emit_string(item);
      break;
  }
  if (!done) {
    code_.keep_in_line(kJumpBytes);
    emit_interpret(item);
    cached_ = kInMemory;
    if (item.form == Form::X87) x87_before_ = kNoX87;  // it has written FIP itself
  }
  emit_islands();
}

void BlockTranslator::emit_interpret(const Item& item) {
  cold(code_.jump(), new_site(item, SiteKind::Interpret), {});
}

uint32_t BlockTranslator::new_site(const Item& item, SiteKind kind) {
  const auto number = static_cast<uint32_t>(translator_.sites_.size());
  Site& site = translator_.sites_.emplace_back();
  site.kind = kind;
  site.translation = index_;
  site.linear = translation_.linear;
  site.uses_sse = translation_.uses_sse;
  site.uses_avx = translation_.uses_avx;
  site.uses_x87 = translation_.uses_x87;
  site.x87_before = x87_before_;
  site.insn = item.insn;
  if (kind == SiteKind::Interpret || kind == SiteKind::Memory) waiting_for_next_.push_back(number);
  return number;
}

void BlockTranslator::emit_cold() {
  for (const ColdSite& item : cold_sites_) {
    code_.set_jump(item.jump, code_.here());
    code_.store_imm32(TRAPEZE_STATE(site), item.site);
    const Site& site = translator_.sites_[item.site];
    if (site.kind != SiteKind::Memory) {
      code_.jump_to(translator_.stubs_.slow);
      continue;
    }
    const auto table = static_cast<unsigned>(translation_.table);
    const Linear& linear = item.linear;
    if (linear.kind == Linear::Kind::Constant) code_.mov(Reg64(kAddress), linear.constant);
    if (linear.kind == Linear::Kind::Base) {
      code_.lea(Reg64(kAddress), code_.ptr[Reg64(linear.base) + linear.disp]);
    }
    code_.call_to(translator_.stubs_.fill[table][site.write ? 1 : 0]);
    code_.jump_to(site.retry);
  }
  emit_cold_returns();
  for (const ColdExit& item : cold_exits_) {
    code_.set_jump(item.jump, code_.here());
    Exit& exit = translator_.exits_[item.exit];
    exit.jump = item.jump;
    exit.unlinked = code_.here();
    code_.store_imm32(TRAPEZE_STATE(site), item.exit);
    code_.jump_to(translator_.stubs_.exit);
  }
}

}  // namespace trapeze::soft
