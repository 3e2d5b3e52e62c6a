// TestDriver: the guest's side of one split virtqueue, for tests and fuzzers. Works as a driver
// does (virtio 1.2 §2.7.13, §2.7.14), and lets a test write anything raw besides.
// One thread; the device under test may work on another.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/units.h"
#include "memory/guest_memory.h"
#include "virtio/queue/split_ring.h"
#include "virtio/queue/virt_queue.h"

namespace trapeze {

// 1 MiB at 0, a hole, 1 MiB at 2 MiB.
inline std::unique_ptr<GuestMemory> make_test_memory() {
  const std::array<GpaRange, 2> ram{GpaRange{Gpa{0}, MiB}, GpaRange{Gpa{2 * MiB}, MiB}};
  auto memory = GuestMemory::create(ram);
  CHECK(memory.has_value());
  return std::move(memory).value();
}

class TestDriver {
 public:
  struct Buffer {
    Gpa at;
    uint32_t len = 0;
    bool writable = false;
  };
  struct Used {
    uint32_t id = 0;
    uint32_t len = 0;
  };

  // The rings lie in one block of `bytes_needed(size)` bytes from `base` (16-byte aligned).
  TestDriver(GuestMemory& memory, uint16_t size, Gpa base, QueueFeatures features = {})
      : memory_(memory), size_(size), features_(features) {
    config_.size = size;
    config_.desc = base;
    config_.avail = base + split_ring::desc_bytes(size);
    config_.used = Gpa{align_up((config_.avail + split_ring::avail_bytes(size)).raw(), 4)};
    CHECK(memory.fill(base, std::byte{0}, bytes_needed(size)));
    for (uint16_t i = 0; i < size; ++i) free_.push_back(static_cast<uint16_t>(size - 1 - i));
    lengths_.resize(size);
  }
  static uint64_t bytes_needed(uint16_t size) {
    return split_ring::desc_bytes(size) + split_ring::avail_bytes(size) + 4 +
           split_ring::used_bytes(size);
  }

  const QueueConfig& config() const { return config_; }
  QueueFeatures features() const { return features_; }
  size_t free_descriptors() const { return free_.size(); }

  // Makes a chain and puts it into the available ring; publish() shows it. Returns its head.
  uint16_t add(std::span<const Buffer> buffers) {
    CHECK(!buffers.empty() && buffers.size() <= free_.size());
    std::vector<uint16_t> indices;
    for (size_t i = 0; i < buffers.size(); ++i) {
      indices.push_back(free_.back());
      free_.pop_back();
    }
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool is_last = i + 1 == buffers.size();
      set_desc(indices[i],
               descriptor(buffers[i], is_last ? std::nullopt : std::optional(indices[i + 1])));
    }
    lengths_[indices[0]] = indices;
    offer(indices[0]);
    return indices[0];
  }
  uint16_t add(const Buffer& buffer) { return add(std::span(&buffer, 1)); }
  // The same through an indirect table at `table`.
  uint16_t add_indirect(std::span<const Buffer> buffers, Gpa table) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool is_last = i + 1 == buffers.size();
      const auto next = is_last ? std::nullopt : std::optional(static_cast<uint16_t>(i + 1));
      CHECK(memory_.store(table + i * 16, descriptor(buffers[i], next)));
    }
    const uint16_t head = free_.back();
    free_.pop_back();
    set_desc(head, {table.raw(), static_cast<uint32_t>(buffers.size() * 16),
                    split_ring::kDescIndirect, 0});
    lengths_[head] = {head};
    offer(head);
    return head;
  }
  // Puts any number into the next slot of the available ring.
  void offer(uint16_t head) {
    split_ring::store16(host(config_.avail + 4 + uint64_t{slot(next_avail_)} * 2), head,
                        __ATOMIC_RELAXED);
    ++next_avail_;
  }
  void publish() { split_ring::store16(host(config_.avail + 2), next_avail_, __ATOMIC_SEQ_CST); }
  // Whether the device asked for a kick for what was published since the last call.
  bool needs_kick() {
    const uint16_t old = std::exchange(kicked_avail_, next_avail_);
    if (old == next_avail_) return false;
    if (!features_.event_idx) {
      return split_ring::load16(host(config_.used), __ATOMIC_SEQ_CST) == 0;
    }
    const Gpa at = config_.used + split_ring::avail_event_offset(size_);
    return split_ring::passes_event(split_ring::load16(host(at), __ATOMIC_SEQ_CST), next_avail_,
                                    old);
  }

  uint16_t used_idx() const { return split_ring::load16(host(config_.used + 2), __ATOMIC_SEQ_CST); }
  // Takes the next used element and frees its descriptors.
  std::optional<Used> take_used() {
    if (used_idx() == next_used_) return std::nullopt;
    Used used;
    std::memcpy(&used, host(config_.used + 4 + uint64_t{slot(next_used_)} * 8), sizeof(used));
    ++next_used_;
    CHECK(used.id < size_);
    for (const uint16_t index : lengths_[used.id]) free_.push_back(index);
    lengths_[used.id].clear();
    return used;
  }
  // Interrupts: wanted with the next used element / not wanted.
  void want_interrupt() {
    if (features_.event_idx) {
      set_used_event(next_used_);
    } else {
      split_ring::store16(host(config_.avail), 0, __ATOMIC_SEQ_CST);
    }
  }
  void refuse_interrupt() {
    if (!features_.event_idx) split_ring::store16(host(config_.avail), 1, __ATOMIC_SEQ_CST);
  }
  void set_used_event(uint16_t value) {
    const Gpa at = config_.avail + split_ring::used_event_offset(size_);
    split_ring::store16(host(at), value, __ATOMIC_SEQ_CST);
  }

  // Raw writes.
  void set_desc(uint16_t index, const split_ring::Descriptor& value) {
    std::memcpy(host(config_.desc + uint64_t{index} * 16), &value, sizeof(value));
  }
  void set_avail_idx(uint16_t value) {
    split_ring::store16(host(config_.avail + 2), value, __ATOMIC_SEQ_CST);
  }

  static split_ring::Descriptor descriptor(const Buffer& buffer, std::optional<uint16_t> next) {
    auto flags = static_cast<uint16_t>(buffer.writable ? split_ring::kDescWrite : 0);
    if (next) flags = static_cast<uint16_t>(flags | split_ring::kDescNext);
    return {buffer.at.raw(), buffer.len, flags, next.value_or(0)};
  }

 private:
  uint16_t slot(uint16_t index) const { return static_cast<uint16_t>(index & (size_ - 1)); }
  std::byte* host(Gpa gpa) const { return memory_.host(gpa, 1); }

  GuestMemory& memory_;
  const uint16_t size_;
  const QueueFeatures features_;
  QueueConfig config_;
  std::vector<uint16_t> free_;
  std::vector<std::vector<uint16_t>> lengths_;  // descriptors of the chain that starts there
  uint16_t next_avail_ = 0;
  uint16_t kicked_avail_ = 0;
  uint16_t next_used_ = 0;
};

inline std::string text_at(const GuestMemory& memory, Gpa gpa, size_t len) {
  std::string text(len, '\0');
  CHECK(memory.read(gpa, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace trapeze
