#include "bus/address_bus.h"

#include <algorithm>

namespace trapeze {

Result<void> AddressBus::attach(uint64_t start, uint64_t size, IoDevice& device, std::string name) {
  const std::lock_guard lock(mutex_);
  Range range{start, size, &device, std::move(name)};
  TRY(check_free(range, nullptr));
  if (ranges_.size() == kMaxRanges) {
    return fail("{} bus: no room for {}: {} ranges are in use", kind_, range.name, kMaxRanges);
  }
  insert(std::move(range));
  publish();
  return {};
}

bool AddressBus::detach(uint64_t start) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(ranges_, start, &Range::start);
  if (found == ranges_.end()) return false;
  ranges_.erase(found);
  publish();
  return true;
}

Result<void> AddressBus::move(uint64_t start, uint64_t new_start) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(ranges_, start, &Range::start);
  if (found == ranges_.end()) return fail("{} bus: nothing starts at {:#x}", kind_, start);
  Range moved = *found;
  moved.start = new_start;
  TRY(check_free(moved, &*found));
  ranges_.erase(found);
  insert(std::move(moved));
  publish();
  return {};
}

Result<void> AddressBus::check_free(const Range& wanted, const Range* ignore) const {
  if (wanted.size == 0) return fail("{} bus: the range of {} is empty", kind_, wanted.name);
  if (wanted.start > last_address_ || wanted.size - 1 > last_address_ - wanted.start) {
    return fail("{} bus: {} at {:#x} with {:#x} bytes does not fit below {:#x}", kind_, wanted.name,
                wanted.start, wanted.size, last_address_);
  }
  const uint64_t last = wanted.start + (wanted.size - 1);
  for (const Range& other : ranges_) {
    const uint64_t other_last = other.start + (other.size - 1);
    if (&other == ignore || other.start > last || wanted.start > other_last) continue;
    return fail("{} bus: {} at {:#x}-{:#x} overlaps {} at {:#x}-{:#x}", kind_, wanted.name,
                wanted.start, last, other.name, other.start, other_last);
  }
  return {};
}

void AddressBus::insert(Range range) {
  const auto place = std::ranges::lower_bound(ranges_, range.start, {}, &Range::start);
  ranges_.insert(place, std::move(range));
}

// A reader that saw any of the new values also sees the odd version, because that was stored first
// and each store releases; it then starts again.
void AddressBus::publish() {
  const uint32_t version = version_.load(std::memory_order_relaxed);
  version_.store(version + 1, std::memory_order_relaxed);
  for (size_t i = 0; i < ranges_.size(); ++i) {
    slots_[i].start.store(ranges_[i].start, std::memory_order_release);
    slots_[i].size.store(ranges_[i].size, std::memory_order_release);
    slots_[i].device.store(ranges_[i].device, std::memory_order_release);
  }
  count_.store(ranges_.size(), std::memory_order_release);
  version_.store(version + 2, std::memory_order_release);
}

// HOT. May read slots of two versions; find() then throws the answer away.
AddressBus::Hit AddressBus::search(uint64_t address) const {
  const size_t count = count_.load(std::memory_order_acquire);
  size_t low = 0;
  size_t high = count;
  while (low < high) {  // the first slot that starts above the address
    const size_t middle = (low + high) / 2;
    if (slots_[middle].start.load(std::memory_order_acquire) <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low > 0) {
    const Slot& slot = slots_[low - 1];
    const uint64_t offset = address - slot.start.load(std::memory_order_acquire);
    const uint64_t size = slot.size.load(std::memory_order_acquire);
    if (offset < size) {
      return {slot.device.load(std::memory_order_acquire), offset, size - offset};
    }
  }
  if (low == count) return {nullptr, 0, ~uint64_t{0}};
  return {nullptr, 0, slots_[low].start.load(std::memory_order_acquire) - address};
}

// HOT
AddressBus::Hit AddressBus::find(uint64_t address) const {
  for (;;) {
    const uint32_t before = version_.load(std::memory_order_acquire);
    const Hit hit = search(address);
    // The acquire loads of search() keep this one behind them.
    if ((before & 1) == 0 && version_.load(std::memory_order_relaxed) == before) return hit;
  }
}

uint64_t AddressBus::read(uint64_t address, Width width) {
  const Hit hit = find(address);
  if (hit.left >= bytes_of(width)) {
    if (hit.device == nullptr) return all_ones(width);
    return hit.device->read(hit.offset, width) & all_ones(width);
  }
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes_of(width); ++i) {
    const Hit byte = address <= last_address_ - i ? find(address + i) : Hit{};
    const uint64_t part = byte.device ? byte.device->read(byte.offset, Width::Byte) & 0xff : 0xff;
    value |= part << (8 * i);
  }
  return value;
}

void AddressBus::write(uint64_t address, Width width, uint64_t value) {
  const Hit hit = find(address);
  if (hit.left >= bytes_of(width)) {
    if (hit.device != nullptr) hit.device->write(hit.offset, width, value & all_ones(width));
    return;
  }
  for (unsigned i = 0; i < bytes_of(width); ++i) {
    if (address > last_address_ - i) break;
    const Hit byte = find(address + i);
    if (byte.device) byte.device->write(byte.offset, Width::Byte, (value >> (8 * i)) & 0xff);
  }
}

}  // namespace trapeze
