#include "bus/pci/msix.h"

#include <poll.h>

#include <utility>

#include "base/check.h"

namespace trapeze {
namespace {

// Dwords of a table entry (PCI 3.0 §6.8.2.6 to 6.8.2.9).
enum : uint64_t { kAddressLow = 0, kAddressHigh = 1, kData = 2, kVectorControl = 3 };
constexpr uint64_t kDwordsPerEntry = 4;
constexpr uint32_t kMaskBit = 1;

// `width` bytes at `offset` of something that is readable as dwords; zero beyond its end.
template <typename ReadDword>
uint64_t read_bytes(uint64_t offset, Width width, ReadDword&& dword) {
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes_of(width); ++i) {
    const uint64_t at = offset + i;
    const uint64_t byte = (dword(at / 4) >> (8 * (at % 4))) & 0xff;
    value |= byte << (8 * i);
  }
  return value;
}

bool has_count(const Fd& event) {
  pollfd slot{.fd = event.get(), .events = POLLIN, .revents = 0};
  return ::poll(&slot, 1, 0) > 0;
}

}  // namespace

Msix::Msix(uint16_t vectors) {
  CHECK(vectors >= 1 && vectors <= kMaxVectors);
  state_.vectors.resize(vectors);
  events_.resize(vectors);
}

void Msix::connect(InterruptSink& sink) {
  const std::lock_guard lock(mutex_);
  sink_ = &sink;
}

void Msix::notify(uint16_t vector) {
  const std::lock_guard lock(mutex_);
  if (!state_.enabled || vector >= state_.vectors.size()) return;
  state_.vectors[vector].pending = true;
  send_if_ready(vector);
}

bool Msix::is_enabled() const {
  const std::lock_guard lock(mutex_);
  return state_.enabled;
}

bool Msix::is_open(size_t vector) const {
  return state_.enabled && !state_.function_masked && !state_.vectors[vector].masked;
}

void Msix::send_if_ready(size_t vector) {
  MsixEntry& entry = state_.vectors[vector];
  if (!entry.pending || !is_open(vector) || sink_ == nullptr) return;
  entry.pending = false;
  if (!send_by_event(vector)) sink_->send_msi(entry.message);
}

bool Msix::send_by_event(size_t vector) {
  MsiEvent* const event = event_of(vector);
  if (event == nullptr || !event->set(state_.vectors[vector].message)) return false;
  event->signal();
  return true;
}

MsiEvent* Msix::event_of(size_t vector) {
  Event& slot = events_[vector];
  if (!slot.is_asked_for && sink_ != nullptr) {
    slot.is_asked_for = true;
    slot.event = sink_->create_msi_event();
  }
  return slot.event.get();
}

const Fd* Msix::lend(uint16_t vector) {
  const std::lock_guard lock(mutex_);
  if (!state_.enabled || vector >= state_.vectors.size()) return nullptr;
  MsiEvent* const event = event_of(vector);
  if (event == nullptr) return nullptr;
  events_[vector].is_lent = true;
  return follow(vector) == Lent::Valid ? &event->event() : nullptr;
}

// Has the event of a vector that is lent do what the vector's entry says.
Msix::Lent Msix::follow(size_t vector) {
  Event& slot = events_[vector];
  if (!slot.is_lent) return Lent::Valid;
  if (state_.enabled && !is_open(vector)) {
    slot.event->hold();
    return Lent::Valid;
  }
  if (state_.enabled && slot.event->set(state_.vectors[vector].message)) return Lent::Valid;
  slot.event->hold();
  slot.is_lent = false;
  return Lent::Recalled;
}

Msix::Lent Msix::set_control(bool enabled, bool function_masked) {
  const std::lock_guard lock(mutex_);
  state_.enabled = enabled;
  state_.function_masked = function_masked;
  Lent lent = Lent::Valid;
  for (size_t vector = 0; vector < state_.vectors.size(); ++vector) {
    if (follow(vector) == Lent::Recalled) lent = Lent::Recalled;
    send_if_ready(vector);
  }
  return lent;
}

uint32_t Msix::dword(uint64_t index) const {
  if (index / kDwordsPerEntry >= state_.vectors.size()) return 0;
  const MsixEntry& entry = state_.vectors[index / kDwordsPerEntry];
  switch (index % kDwordsPerEntry) {
    case kAddressLow:
      return static_cast<uint32_t>(entry.message.address);
    case kAddressHigh:
      return static_cast<uint32_t>(entry.message.address >> 32);
    case kData:
      return entry.message.data;
    default:
      return entry.masked ? kMaskBit : 0;
  }
}

Msix::Lent Msix::set_dword(uint64_t index, uint32_t value) {
  if (index / kDwordsPerEntry >= state_.vectors.size()) return Lent::Valid;
  MsixEntry& entry = state_.vectors[index / kDwordsPerEntry];
  MsiMessage& message = entry.message;
  switch (index % kDwordsPerEntry) {
    case kAddressLow:  // the two low bits are reserved
      message.address = (message.address & ~uint64_t{0xffff'ffff}) | (value & ~3U);
      break;
    case kAddressHigh:
      message.address = (message.address & 0xffff'ffff) | (uint64_t{value} << 32);
      break;
    case kData:
      message.data = value;
      break;
    default:
      entry.masked = (value & kMaskBit) != 0;
      break;
  }
  const Lent lent = follow(index / kDwordsPerEntry);
  send_if_ready(index / kDwordsPerEntry);
  return lent;
}

uint64_t Msix::table_read(uint64_t offset, Width width) const {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, width, [this](uint64_t index) { return dword(index); });
}

// Software must use aligned dwords or qwords; what other accesses do is undefined: here, nothing.
Msix::Lent Msix::table_write(uint64_t offset, Width width, uint64_t value) {
  if (bytes_of(width) < 4 || offset % bytes_of(width) != 0) return Lent::Valid;
  const std::lock_guard lock(mutex_);
  Lent lent = set_dword(offset / 4, static_cast<uint32_t>(value));
  if (width == Width::Qword &&
      set_dword(offset / 4 + 1, static_cast<uint32_t>(value >> 32)) == Lent::Recalled) {
    lent = Lent::Recalled;
  }
  return lent;
}

bool Msix::is_pending(size_t vector) const {
  const Event& slot = events_[vector];
  return state_.vectors[vector].pending ||
         (slot.is_lent && !is_open(vector) && has_count(slot.event->event()));
}

uint64_t Msix::pending_read(uint64_t offset, Width width) const {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, width, [this](uint64_t index) {
    uint32_t bits = 0;
    for (uint64_t bit = 0; bit < 32 && index * 32 + bit < state_.vectors.size(); ++bit) {
      if (is_pending(index * 32 + bit)) bits |= 1U << bit;
    }
    return bits;
  });
}

MsixState Msix::save() const {
  const std::lock_guard lock(mutex_);
  MsixState state = state_;
  for (size_t vector = 0; vector < state.vectors.size(); ++vector) {
    state.vectors[vector].pending = is_pending(vector);
  }
  return state;
}

Result<void> Msix::restore(const MsixState& state) {
  const std::lock_guard lock(mutex_);
  if (state.vectors.size() != state_.vectors.size()) {
    return fail("saved MSI-X table has {} vectors, the device has {}", state.vectors.size(),
                state_.vectors.size());
  }
  for (Event& slot : events_) {
    if (std::exchange(slot.is_lent, false)) slot.event->hold();
  }
  state_ = state;
  return {};
}

}  // namespace trapeze
