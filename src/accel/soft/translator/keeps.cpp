// Keeps: what a probe found serves later accesses through the same base register, in the same
// translation. Only what leaves the translation may take the page away: a CPU looks at what others
// ask of its TLB between translations, and the instructions that change its own are interpreted.
#include <algorithm>

#include "accel/soft/translator/block_translator.h"
#include "accel/soft/translator/registers.h"

namespace trapeze::soft {

using Xbyak::Reg64;

namespace {

// As for groups: wider ones cross pages more often, and then the interpreter does the block.
constexpr int32_t kMaxKeepBytes = 256;
constexpr unsigned kSlots = std::size(TranslatorState{}.kept);

}  // namespace

// The group that begins with the item, or its access alone.
bool BlockTranslator::unit_at(unsigned index, Unit& unit) const {
  if (places_[index].group != kNone) {
    const Group& group = groups_[places_[index].group];
    if (group.first != index || group.aligned) return false;
    unit = {group.base, group.low, group.high, group.write};
  } else {
    Reach reach;
    if (!reach_of(items_[index], reach) || reach.aligned) return false;
    unit = {reach.base, reach.disp, reach.disp + static_cast<int32_t>(reach.size), reach.write};
  }
  return kHostRegister[unit.base] != kInMemory;
}

// False for instructions after which another page may be mapped, or none.
bool BlockTranslator::keeps_pages(const Item& item) {
  switch (item.form) {
    case Form::Plain:
    case Form::Nothing:
    case Form::Lea:
    case Form::Push:
    case Form::Pop:
    case Form::Jump:
    case Form::JumpIf:
    case Form::Call:
    case Form::Return:
    case Form::PushFlags:
    case Form::SwapGs:
    case Form::CompareExchangeWide:
    case Form::ReadSegment:
    case Form::DisableInterrupts:
    case Form::X87:
      return true;
    case Form::Interpret:
    case Form::Leave:
    case Form::EnableInterrupts:
    case Form::String:
      break;
  }
  return false;
}

void BlockTranslator::plan_keeps() {
  if (is_code32() || translator_.without_keeps_.contains(translation_.gpa)) return;
  struct Open {
    uint32_t keep = kNone;
    int32_t moved = 0;  // the base, since the keep's lead
  };
  std::array<Open, 16> open;
  for (unsigned i = 0; i < items_.size(); ++i) {
    Unit unit;
    if (unit_at(i, unit)) {
      Open& now = open[unit.base];
      if (now.keep != kNone) {
        Keep& keep = keeps_[now.keep];
        const int32_t low = std::min(keep.low, unit.low + now.moved);
        const int32_t high = std::max(keep.high, unit.high + now.moved);
        if (high - low > kMaxKeepBytes || (unit.write && !keep.write)) {
          now.keep = kNone;
        } else {
          keep.low = low;
          keep.high = high;
          ++keep.uses;
        }
      }
      if (now.keep == kNone) {
        now = {static_cast<uint32_t>(keeps_.size()), 0};
        keeps_.push_back({i, unit.low, unit.high, unit.write, 1, 0});
      }
      places_[i].keep = now.keep;
    }
    if (!keeps_pages(items_[i])) open.fill({});
    for (uint8_t base = 0; base < open.size(); ++base) {
      if (open[base].keep != kNone && !follow_base(items_[i], base, open[base].moved)) {
        open[base] = {};
      }
    }
  }
  unsigned slots = 0;
  for (Keep& keep : keeps_) {
    if (keep.uses > 1 && slots == kSlots) keep.uses = 1;
    if (keep.uses > 1) keep.slot = static_cast<uint8_t>(slots++);
  }
}

// The keep that the item's access, or the group it begins, goes by; nullptr: none.
const BlockTranslator::Keep* BlockTranslator::keep_of(const Item& item) const {
  if (!use_groups_) return nullptr;
  const uint32_t number = places_[static_cast<size_t>(&item - items_.data())].keep;
  return number != kNone && keeps_[number].uses > 1 ? &keeps_[number] : nullptr;
}

// The access at `base` (a host register) + `disp`. The keep's lead makes the probe.
HostMemory BlockTranslator::kept_access(const Item& item, const Keep& keep, uint8_t base,
                                        int32_t disp) {
  const size_t slot = TRAPEZE_STATE(kept) + keep.slot * sizeof(uint64_t);
  if (&item != &items_[keep.lead]) {
    code_.load(Reg64(kAddress), slot);
    return {base, kAddress, disp};
  }
  const auto size = static_cast<uint16_t>(keep.high - keep.low);
  const auto site = static_cast<uint32_t>(translator_.sites_.size());
  probe_base(item, {code_.here(), size, keep.write, false}, base, keep.low);
  translator_.sites_[site].keep = true;
  waiting_for_next_.pop_back();  // it is never gone on from there
  code_.store(slot, Reg64(kAddress));
  return {base, kAddress, disp};
}

}  // namespace trapeze::soft
