#include "irq/chip/apic_bus.h"

#include <algorithm>

#include "base/check.h"

namespace trapeze {

void ApicBus::add(Lapic& lapic) {
  CHECK(lapic.id() < 255 && by_id_[lapic.id()] == nullptr);
  by_id_[lapic.id()] = &lapic;
  lapics_.push_back(&lapic);
  std::sort(lapics_.begin(), lapics_.end(),
            [](const Lapic* a, const Lapic* b) { return a->id() < b->id(); });
}

void ApicBus::remove(Lapic& lapic) {
  CHECK(lapic.id() < by_id_.size() && by_id_[lapic.id()] == &lapic);
  by_id_[lapic.id()] = nullptr;
  lapics_.erase(std::find(lapics_.begin(), lapics_.end(), &lapic));
}

bool ApicBus::is_target(const Lapic& lapic, const ApicMessage& message) const {
  if (!lapic.is_enabled()) return false;
  switch (message.shorthand) {
    case Shorthand::None:
      return lapic.matches(message);
    case Shorthand::Self:
      return lapic.id() == message.source;
    case Shorthand::AllIncludingSelf:
      return true;
    case Shorthand::AllExcludingSelf:
      return lapic.id() != message.source;
  }
  return false;
}

bool ApicBus::send(const ApicMessage& message) {
  // The common case needs no search: one CPU by its ID.
  const uint32_t broadcast = message.wide ? 0xffff'ffffU : 0xffU;
  if (!message.logical && message.shorthand == Shorthand::None &&
      message.destination != broadcast) {
    Lapic* const lapic =
        message.destination < by_id_.size() ? by_id_[message.destination] : nullptr;
    return lapic != nullptr && lapic->deliver(message);
  }
  if (message.one_target || message.mode == DeliveryMode::LowestPriority) {
    return send_to_lowest(message);
  }
  bool accepted = false;
  for (Lapic* lapic : lapics_) {
    if (is_target(*lapic, message)) accepted |= lapic->deliver(message);
  }
  return accepted;
}

// Among the targets, the one with the lowest PPR class; equals take turns (SDM 3A 11.6.2.4 leaves
// the choice to the platform).
bool ApicBus::send_to_lowest(const ApicMessage& message) {
  if (lapics_.empty()) return false;
  const size_t start = next_lowest_.fetch_add(1, std::memory_order_relaxed) % lapics_.size();
  Lapic* best = nullptr;
  for (size_t i = 0; i < lapics_.size(); ++i) {
    Lapic* const lapic = lapics_[(start + i) % lapics_.size()];
    if (!lapic->is_software_enabled() || !is_target(*lapic, message)) continue;
    if (best == nullptr || (lapic->priority() >> 4) < (best->priority() >> 4)) best = lapic;
  }
  return best != nullptr && best->deliver(message);
}

bool ApicBus::send_msi(const MsiMessage& msi) {
  const std::optional<ApicMessage> message = parse_msi(msi);
  return message && send(*message);
}

}  // namespace trapeze
