// ShadowQueue: a virtqueue of our own, in which we are the driver and a vhost-user back end is the
// device. It carries the chains that were popped from one queue of the guest.
//
// The back end is hostile: of the ring only what it writes is ever read, the used ring, and each
// element is checked against what is in flight. Descriptors point into guest RAM, as the guest's
// own did; no event index, no indirect descriptors.
//
// Threads: those of the device. Chains in flight outlive the ring: begin() puts them into a new
// one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "memory/guest_memory.h"
#include "virtio/queue/chain.h"

namespace trapeze {

class ShadowQueue {
 public:
  // The most that common back ends take, and the longest chain that VirtQueue::pop makes.
  static constexpr uint16_t kSize = 1024;
  // Where the parts are in the ring's memory, and how much that is.
  static constexpr size_t kAvailOffset = size_t{kSize} * 16;
  static constexpr size_t kUsedOffset = kAvailOffset + 4096;
  static constexpr size_t kBytes = kUsedOffset + 12288;

  explicit ShadowQueue(const GuestMemory& memory);

  // A new ring in `ring` (kBytes, zeros, page-aligned) that nobody uses yet. What is in flight is
  // put into it, oldest first.
  void begin(std::span<std::byte> ring);
  // The ring is gone; what is in flight stays.
  void end() { ring_ = {}; }
  bool is_begun() const { return !ring_.empty(); }

  size_t in_flight() const { return in_flight_.size(); }
  bool has_room(const Chain& chain) const { return parts_of(chain) <= free_.size(); }

  // Takes the chain over (its storage is swapped); only when begun and with room. It must have a
  // part.
  void submit(Chain& chain);
  // Shows what was submitted. Whether the back end wants a kick.
  [[nodiscard]] bool publish();

  enum class Taken : uint8_t { Nothing, Chain, Violation };
  // The next chain that the back end has done, with the bytes that it says it wrote.
  Taken take_used(Chain& chain, uint32_t& len);
  // The oldest chain in flight, done or not; only while not begun. False when there is none.
  bool take_oldest(Chain& chain);

 private:
  struct Entry {
    trapeze::Chain chain;
    uint16_t head = 0;
  };
  using Entries = std::list<Entry>;

  static size_t parts_of(const trapeze::Chain& chain) {
    return chain.readable().size() + chain.writable().size();
  }
  void put(Entries::iterator entry);
  void put_descriptor(uint16_t index, const iovec& part, bool is_writable, bool is_last);
  void remove(Entries::iterator entry, trapeze::Chain& chain);

  const GuestMemory& memory_;
  std::span<std::byte> ring_;
  std::vector<uint16_t> free_;
  std::array<uint16_t, kSize> next_{};  // the ring's `next` could be changed by the back end
  std::array<Entries::iterator, kSize> by_head_;
  std::array<bool, kSize> is_head_{};
  Entries in_flight_;  // oldest first
  Entries spare_;      // so that there is no allocation for each chain
  uint16_t next_avail_ = 0;
  uint16_t published_avail_ = 0;
  uint16_t next_used_ = 0;
};

}  // namespace trapeze
