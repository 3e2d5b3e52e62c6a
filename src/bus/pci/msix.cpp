#include "bus/pci/msix.h"

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

void Msix::send_if_ready(size_t vector) {
  MsixEntry& entry = state_.vectors[vector];
  if (!entry.pending || entry.masked || !state_.enabled || state_.function_masked) return;
  if (sink_ == nullptr) return;
  entry.pending = false;
  if (!send_by_event(vector)) sink_->send_msi(entry.message);
}

bool Msix::send_by_event(size_t vector) {
  Event& slot = events_[vector];
  if (!slot.is_asked_for) {
    slot.is_asked_for = true;
    slot.event = sink_->create_msi_event();
  }
  if (slot.event == nullptr || !slot.event->set(state_.vectors[vector].message)) return false;
  slot.event->signal();
  return true;
}

void Msix::set_control(bool enabled, bool function_masked) {
  const std::lock_guard lock(mutex_);
  state_.enabled = enabled;
  state_.function_masked = function_masked;
  for (size_t vector = 0; vector < state_.vectors.size(); ++vector) send_if_ready(vector);
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

void Msix::set_dword(uint64_t index, uint32_t value) {
  if (index / kDwordsPerEntry >= state_.vectors.size()) return;
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
      send_if_ready(index / kDwordsPerEntry);
      break;
  }
}

uint64_t Msix::table_read(uint64_t offset, Width width) const {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, width, [this](uint64_t index) { return dword(index); });
}

// Software must use aligned dwords or qwords; what other accesses do is undefined: here, nothing.
void Msix::table_write(uint64_t offset, Width width, uint64_t value) {
  if (bytes_of(width) < 4 || offset % bytes_of(width) != 0) return;
  const std::lock_guard lock(mutex_);
  set_dword(offset / 4, static_cast<uint32_t>(value));
  if (width == Width::Qword) set_dword(offset / 4 + 1, static_cast<uint32_t>(value >> 32));
}

uint64_t Msix::pending_read(uint64_t offset, Width width) const {
  const std::lock_guard lock(mutex_);
  return read_bytes(offset, width, [this](uint64_t index) {
    uint32_t bits = 0;
    for (uint64_t bit = 0; bit < 32 && index * 32 + bit < state_.vectors.size(); ++bit) {
      if (state_.vectors[index * 32 + bit].pending) bits |= 1U << bit;
    }
    return bits;
  });
}

MsixState Msix::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Result<void> Msix::restore(const MsixState& state) {
  const std::lock_guard lock(mutex_);
  if (state.vectors.size() != state_.vectors.size()) {
    return fail("saved MSI-X table has {} vectors, the device has {}", state.vectors.size(),
                state_.vectors.size());
  }
  state_ = state;
  return {};
}

}  // namespace trapeze
