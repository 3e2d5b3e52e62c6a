#include "virtio/fs/device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace trapeze {
namespace {

// Linux takes as many pages into one request as fit into the queue, at most 256
// (fs/fuse/virtio_fs.c and FUSE_MAX_MAX_PAGES). It uses one request queue, so there is one.
constexpr std::array<uint16_t, 2> kQueueSizes{128, 1024};
// A turn of one queue: then forgets and other devices of the loop get theirs.
constexpr uint16_t kMaxChainsPerTurn = 16;

}  // namespace

FsDevice::FsDevice(const FsConfig& config, FsServer& server, EventLoop& loop)
    : server_(server), loop_(loop) {
  CHECK(!config.tag.empty() && config.tag.size() <= fs::kTagBytes);
  std::memcpy(config_.tag, config.tag.data(), config.tag.size());
  config_.num_request_queues = kQueueSizes.size() - fs::kFirstRequestQueue;
}

std::span<const uint16_t> FsDevice::queue_max_sizes() const { return kQueueSizes; }

void FsDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config_) + offset, to.size());
}

void FsDevice::reset() {
  if (active_ == nullptr) return;
  active_ = nullptr;
  if (forget_timer_) loop_.cancel_timer(*forget_timer_);
  forget_timer_.reset();
  server_.reset();
}

// HOT: no allocation of the device's.
bool FsDevice::on_kick(uint16_t index) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(index) : nullptr;
  if (queue == nullptr) return false;
  if (index == fs::kHighPriorityQueue) return serve_forgets();
  const bool has_more = serve(*queue, chain_, kMaxChainsPerTurn, [&](Chain& chain) {
    handle_request(*queue, chain);
    return true;
  });
  active_->notify_used(index);
  return has_more;
}

bool FsDevice::serve_forgets() {
  VirtQueue& queue = *active_->queue(fs::kHighPriorityQueue);
  const bool has_more = serve(
      queue, forget_chain_, kMaxChainsPerTurn,
      [&](Chain& chain) {
        handle(queue, chain);
        has_forgotten_ = true;
        return true;
      },
      kForgetCrowd);
  active_->notify_used(fs::kHighPriorityQueue);
  if (!forget_timer_) {
    forget_timer_ = loop_.start_timer(kForgetWait, [this] { look_for_forgets(); });
  }
  return has_more;
}

void FsDevice::look_for_forgets() {
  forget_timer_.reset();
  VirtQueue& queue = *active_->queue(fs::kHighPriorityQueue);
  // When none came for a while the next one brings a kick again.
  if (!std::exchange(has_forgotten_, false) && queue.pending() == 0 && !queue.allow_kicks()) return;
  if (serve_forgets()) active_->kick_again(fs::kHighPriorityQueue);
}

// HOT
bool FsDevice::on_vcpu_kick(uint16_t index) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(index) : nullptr;
  if (queue == nullptr) return false;
  const bool is_all = serve_one(
      *queue, chain_,
      [&](const Chain& chain) {
        return server_.is_short({.message = chain.readable(), .reply = chain.writable()});
      },
      [&](Chain& chain) { handle_request(*queue, chain); });
  active_->notify_used(index);
  return is_all;
}

void FsDevice::handle_request(VirtQueue& queue, Chain& chain) {
  const bool has_forgets = active_->queue(fs::kHighPriorityQueue) != nullptr;
  if (has_forgets && server_.wants_forgets() && serve_forgets()) {
    active_->kick_again(fs::kHighPriorityQueue);
  }
  handle(queue, chain);
}

void FsDevice::handle(VirtQueue& queue, Chain& chain) {
  const FsOutcome outcome = server_.serve({.message = chain.readable(), .reply = chain.writable()});
  metrics_.requests.add();
  metrics_.request_bytes.add(chain.readable_bytes());
  metrics_.reply_bytes.add(outcome.reply_bytes);
  if (outcome.is_error) metrics_.errors.add();
  if (outcome.has_no_room) {
    // The driver would wait for ever.
    metrics_.bad_requests.add();
    queue.mark_broken(QueueFault::WrongDirection);
    return;
  }
  chain.note_written(outcome.touched_bytes);
  queue.push_used(chain, outcome.reply_bytes);
}

}  // namespace trapeze
