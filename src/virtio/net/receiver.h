// NetReceiver: frames for the guest, from the back end into the buffers of one receive queue,
// without a copy in between. Device thread. Private to virtio/net.
//
// How long a frame is shows only when it has been read, so buffers for the longest one are popped
// beforehand ("held") and used in their order. Behind them lies a buffer of our own: what a guest
// that is short of buffers has no room for goes there, and into the guest's next buffers when they
// come (with mergeable buffers) or is dropped with its frame (without).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "virtio/net/protocol.h"
#include "virtio/net/sender.h"

namespace trapeze {

class NetReceiver {
 public:
  explicit NetReceiver(const NetPath& path);

  // The driver is there. `longest` is the longest frame that it takes, with its header.
  void start(bool is_mergeable, uint32_t longest);
  NetTurn serve(VirtQueue& queue);
  // serve() ended for want of buffers: a kick means that there are some.
  bool is_starved() const { return is_starved_; }
  // Puts back what is held, so that the queue can be saved; a frame half delivered is dropped.
  void give_back(VirtQueue& queue);
  // The queue is gone.
  void forget();

 private:
  static constexpr size_t kFramesPerTurn = 64;
  // readv takes 1,024; what a driver uses for a buffer is fewer than 20.
  static constexpr size_t kMaxPartsOfChain = 256;
  static constexpr size_t kEnoughParts = 512;

  struct Held {
    Chain chain;
    uint64_t used = 0;  // bytes of the frame under way
  };

  bool hold_one(VirtQueue& queue);
  bool make_room(VirtQueue& queue);
  bool wait_for_buffers(VirtQueue& queue);
  bool finish_spilled(VirtQueue& queue);
  bool may_receive(NetTurn& turn);
  void deliver(VirtQueue& queue, uint64_t bytes);
  void complete(VirtQueue& queue, size_t chains);
  void drop_parts(size_t count);
  Held& held(size_t index) { return *held_[(begin_ + index) & (held_.size() - 1)]; }

  NetPath path_;
  bool is_mergeable_ = false;
  bool is_starved_ = false;
  uint32_t longest_ = 0;
  // A ring of what is held, grown as needed; its size is a power of two.
  std::vector<std::unique_ptr<Held>> held_;
  size_t begin_ = 0;
  size_t count_ = 0;
  uint64_t room_bytes_ = 0;
  std::vector<iovec> room_;  // from parts_begin_ on: the parts of all that is held
  size_t parts_begin_ = 0;
  std::unique_ptr<std::byte[]> spill_;
  uint64_t spilled_begin_ = 0;
  uint64_t spilled_end_ = 0;
};

}  // namespace trapeze
