#include "virtio/net/sender.h"

#include "virtio/net/protocol.h"

namespace trapeze {
namespace {

bool is_frame(const Chain& chain) {
  return chain.readable_bytes() > net::kHeaderBytes &&
         chain.readable_bytes() <= net::kMaxFrameBytes;
}

}  // namespace

// HOT: no allocation once the chains have grown.
NetTurn NetSender::serve(VirtQueue& queue) {
  NetTurn turn;
  queue.suppress_kicks();
  for (size_t batch = 0; batch < kBatchesPerTurn; ++batch) {
    const size_t count = take_batch(queue, turn);
    if (count != 0 && !send_batch(queue, count, turn)) return turn;
    if (turn.end != NetTurn::End::Idle) return turn;
    if (count < kBatch && !queue.allow_kicks()) return turn;
  }
  turn.end = NetTurn::End::More;
  return turn;
}

// Frames up to a batch, or up to one that has to wait; `turn` then says so.
size_t NetSender::take_batch(VirtQueue& queue, NetTurn& turn) {
  size_t count = 0;
  while (count < kBatch && queue.pop(chains_[count])) {
    Chain& chain = chains_[count];
    if (count >= paid_ && !pay(chain, turn)) {
      queue.undo_pop();
      break;
    }
    frames_[count++] = chain.readable();
  }
  return count;
}

bool NetSender::pay(const Chain& chain, NetTurn& turn) {
  if (!path_.limiter.is_limited()) return true;
  turn.wait_ns = path_.limiter.take_or_wait_ns(chain.readable_bytes(), path_.clock.monotonic_ns());
  if (turn.wait_ns == 0) return true;
  path_.metrics.throttled.add();
  turn.end = NetTurn::End::Throttled;
  return false;
}

// False: not all of them went; `turn` says why.
bool NetSender::send_batch(VirtQueue& queue, size_t count, NetTurn& turn) {
  size_t done = 0;
  NetBackend::Status status = NetBackend::Status::Ok;
  while (done < count && status == NetBackend::Status::Ok) {
    // Senseless ones in between are given back unsent, in their turn.
    size_t good = done;
    while (good < count && is_frame(chains_[good])) ++good;
    if (good == done) {
      path_.metrics.bad_frames.add();
      queue.push_used(chains_[done++], 0);
      continue;
    }
    const auto sent = path_.backend.send(path_.pair, std::span(frames_).subspan(done, good - done));
    path_.metrics.dropped_sending.add(sent.dropped);
    path_.metrics.sent_frames.add(sent.frames - sent.dropped);
    for (const size_t end = done + sent.frames; done < end; ++done) {
      path_.metrics.sent_bytes.add(chains_[done].readable_bytes());
      queue.fill_used(chains_[done], 0);
    }
    queue.publish_used();
    status = sent.status;
  }
  paid_ = path_.limiter.is_limited() ? count - done : 0;
  for (size_t i = done; i < count; ++i) queue.undo_pop();
  if (status == NetBackend::Status::Ok) return true;
  turn.end = status == NetBackend::Status::Blocked ? NetTurn::End::Blocked : NetTurn::End::Lost;
  return false;
}

NetTurn NetSender::drop_all(VirtQueue& queue) {
  const bool has_more =
      ::trapeze::serve(queue, chains_[0], kBatch * kBatchesPerTurn, [&](Chain& chain) {
        path_.metrics.dropped_sending.add();
        queue.push_used(chain, 0);
        return true;
      });
  return {.end = has_more ? NetTurn::End::More : NetTurn::End::Idle};
}

}  // namespace trapeze
