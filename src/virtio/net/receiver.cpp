#include "virtio/net/receiver.h"

#include <algorithm>
#include <utility>

#include "virtio/queue/iov.h"

namespace trapeze {

NetReceiver::NetReceiver(const NetPath& path)
    : path_(path), spill_(std::make_unique_for_overwrite<std::byte[]>(net::kMaxFrameBytes)) {}

void NetReceiver::start(bool is_mergeable, uint32_t longest) {
  forget();
  is_mergeable_ = is_mergeable;
  longest_ = longest;
}

void NetReceiver::forget() {
  begin_ = count_ = 0;
  room_bytes_ = 0;
  room_.clear();
  parts_begin_ = 0;
  spilled_begin_ = spilled_end_ = 0;
  is_starved_ = false;
}

void NetReceiver::give_back(VirtQueue& queue) {
  for (size_t i = 0; i < count_; ++i) queue.undo_pop();
  forget();
}

// HOT: no allocation once the ring and the chains have grown.
NetTurn NetReceiver::serve(VirtQueue& queue) {
  NetTurn turn;
  is_starved_ = false;
  queue.suppress_kicks();
  if (spilled_end_ != 0 && !finish_spilled(queue)) return turn;
  for (size_t frame = 0; frame < kFramesPerTurn; ++frame) {
    if (!make_room(queue)) return turn;
    if (!may_receive(turn)) return turn;
    room_.push_back({spill_.get(), net::kMaxFrameBytes});
    const auto received = path_.backend.receive(path_.pair, std::span(room_).subspan(parts_begin_));
    room_.pop_back();
    if (received.status != NetBackend::Status::Ok) {
      turn.end = received.status == NetBackend::Status::Blocked ? NetTurn::End::Blocked
                                                                : NetTurn::End::Lost;
      return turn;
    }
    deliver(queue, received.bytes);
    if (spilled_end_ != 0 && !finish_spilled(queue)) return turn;
  }
  turn.end = NetTurn::End::More;
  return turn;
}

// The size is not known yet: what the buckets do not hold becomes their debt.
bool NetReceiver::may_receive(NetTurn& turn) {
  RateLimiter& limiter = path_.limiter;
  if (!limiter.is_limited()) return true;
  const uint64_t now_ns = path_.clock.monotonic_ns();
  turn.wait_ns =
      std::max(limiter.bandwidth().wait_ns(1, now_ns), limiter.operations().wait_ns(1, now_ns));
  if (turn.wait_ns == 0) return true;
  path_.metrics.throttled.add();
  turn.end = NetTurn::End::Throttled;
  return false;
}

// Pops one more chain. False when there is none, or it is none that could take a frame.
bool NetReceiver::hold_one(VirtQueue& queue) {
  if (count_ == held_.size()) {
    std::rotate(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(begin_), held_.end());
    begin_ = 0;
    const size_t grown = std::max<size_t>(8, held_.size() * 2);
    while (held_.size() < grown) held_.push_back(std::make_unique<Held>());
  }
  Held& next = held(count_);
  if (!queue.pop(next.chain)) return false;
  const auto parts = next.chain.writable();
  if (next.chain.writable_bytes() < net::kHeaderBytes) {
    queue.mark_broken(QueueFault::WrongDirection);
    return false;
  }
  if (parts.size() > kMaxPartsOfChain) {
    queue.mark_broken(QueueFault::ChainTooLong);
    return false;
  }
  next.used = 0;
  ++count_;
  room_.insert(room_.end(), parts.begin(), parts.end());
  room_bytes_ += next.chain.writable_bytes();
  return true;
}

bool NetReceiver::make_room(VirtQueue& queue) {
  if (queue.is_broken()) return false;
  const auto has_enough = [&] {
    return count_ != 0 && (!is_mergeable_ || room_bytes_ >= longest_ ||
                           room_.size() - parts_begin_ >= kEnoughParts);
  };
  while (!has_enough() && hold_one(queue)) {
  }
  while (count_ == 0) {
    if (!wait_for_buffers(queue)) return false;
    hold_one(queue);
  }
  return !queue.is_broken();
}

// True: there are some after all.
bool NetReceiver::wait_for_buffers(VirtQueue& queue) {
  if (!queue.is_broken() && queue.allow_kicks()) {
    queue.suppress_kicks();
    return true;
  }
  is_starved_ = true;
  return false;
}

void NetReceiver::deliver(VirtQueue& queue, uint64_t bytes) {
  RateLimiter& limiter = path_.limiter;
  if (limiter.is_limited()) {
    limiter.bandwidth().take(bytes);
    limiter.operations().take(1);
  }
  if (bytes < net::kHeaderBytes) return path_.metrics.dropped_receiving.add();
  const uint64_t usable = is_mergeable_ ? room_bytes_ : held(0).chain.writable_bytes();
  if (bytes > usable && !is_mergeable_) return path_.metrics.dropped_receiving.add();
  uint64_t left = std::min(bytes, usable);
  size_t chains = 0;
  for (; left != 0; ++chains) {
    Held& target = held(chains);
    target.used = std::min(left, target.chain.writable_bytes());
    left -= target.used;
  }
  path_.metrics.received_frames.add();
  path_.metrics.received_bytes.add(bytes);
  if (bytes <= usable) return complete(queue, chains);
  spilled_begin_ = 0;
  spilled_end_ = bytes - usable;
}

// True when the frame is complete.
bool NetReceiver::finish_spilled(VirtQueue& queue) {
  while (spilled_begin_ != spilled_end_) {
    if (!hold_one(queue)) {
      if (!wait_for_buffers(queue)) return false;
      continue;
    }
    Held& target = held(count_ - 1);
    ChainWriter writer(target.chain);
    target.used = writer.write(std::span(spill_.get() + spilled_begin_,
                                         static_cast<size_t>(spilled_end_ - spilled_begin_)));
    spilled_begin_ += target.used;
  }
  spilled_begin_ = spilled_end_ = 0;
  complete(queue, count_);
  return true;
}

// Hands the first `chains` to the driver: a whole frame, all at once.
void NetReceiver::complete(VirtQueue& queue, size_t chains) {
  ChainWriter writer(held(0).chain);
  writer.skip(offsetof(net::Header, num_buffers));
  // §5.1.6.4.1: 1 where buffers are not mergeable.
  writer.write_value(static_cast<uint16_t>(chains));
  size_t parts = 0;
  for (size_t i = 0; i < chains; ++i) {
    Held& target = held(i);
    parts += target.chain.writable().size();
    room_bytes_ -= target.chain.writable_bytes();
    queue.fill_used(target.chain, target.used);
  }
  queue.publish_used();
  begin_ = (begin_ + chains) & (held_.size() - 1);
  count_ -= chains;
  drop_parts(parts);
}

void NetReceiver::drop_parts(size_t count) {
  parts_begin_ += count;
  if (parts_begin_ == room_.size() || parts_begin_ >= 2 * kEnoughParts) {
    room_.erase(room_.begin(), room_.begin() + static_cast<ptrdiff_t>(parts_begin_));
    parts_begin_ = 0;
  }
}

}  // namespace trapeze
