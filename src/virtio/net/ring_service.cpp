// NetDevice over a back end that works on the rings itself.
#include <sys/eventfd.h>

#include "base/log.h"
#include "virtio/net/device.h"
#include "virtio/queue/split_ring.h"

namespace trapeze {
namespace {

// What whoever works on rings and frames has to know.
constexpr uint64_t kRingFeatures =
    kFeatureVersion1 | kFeatureEventIdx | kFeatureIndirectDesc | net::kFeatureMergeableBuffers;

}  // namespace

NetRing NetDevice::ring_of(uint16_t number, VirtQueue& queue) {
  const QueueState state = queue.save();
  const uint16_t size = state.config.size;
  // VirtQueue has checked that they lie in RAM.
  return {.queue = number,
          .size = size,
          .next_avail = state.next_avail,
          .desc = active_->memory.host(state.config.desc, split_ring::desc_bytes(size)),
          .avail = active_->memory.host(state.config.avail, split_ring::avail_bytes(size)),
          .used = active_->memory.host(state.config.used, split_ring::used_bytes(size))};
}

// A failure is one of the host, which could do it when the machine was built.
void NetDevice::start_rings() {
  NetRings* service = backend_.rings();
  if (service == nullptr || !has_link_ || !active_->take_doorbell) return;
  std::vector<NetMemoryRange> memory;
  for (const GpaRange& range : active_->memory.ram()) {
    memory.push_back({range.start.raw(), range.size, active_->memory.host(range.start, 1)});
  }
  std::vector<NetRing> rings;
  std::vector<Call> calls;
  for (uint16_t number = 0; number < pair_count_ * 2; ++number) {
    VirtQueue* queue = active_->queue(number);
    if (queue == nullptr || queue->is_broken() || number == control_queue()) continue;
    calls.push_back({number, Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))});
    rings.push_back(ring_of(number, *queue));
  }
  if (rings.empty()) return;
  for (size_t i = 0; i < rings.size(); ++i) {
    rings[i].call = &interrupt_of(calls[i]);
    rings[i].kick = &active_->take_doorbell(rings[i].queue);
  }
  const auto started = service->start(active_->features & kRingFeatures, memory, rings);
  if (!started) {
    log(LogLevel::Warning, "{}: {}", backend_.info().name, started.error().message);
    active_->interrupt.needs_reset();
    return;
  }
  calls_ = std::move(calls);
  for (const Call& call : calls_) {
    const uint16_t number = call.queue;
    // Edge-triggered: nobody needs to read the counter.
    [[maybe_unused]] const auto watched =
        loop_.watch(call.event.get(), EPOLLIN | EPOLLET,
                    [this, number](uint32_t) { active_->interrupt.queue_used(number); });
  }
}

// Best one that the host's kernel turns into the guest's interrupt.
const Fd& NetDevice::interrupt_of(const Call& call) {
  const Fd* const lent = active_->interrupt.lend_interrupt(call.queue);
  return lent != nullptr ? *lent : call.event;
}

void NetDevice::interrupts_moved() {
  for (const Call& call : calls_) {
    const auto moved = backend_.rings()->set_call(call.queue, interrupt_of(call));
    if (!moved && log_limiter_.allow()) {
      log(LogLevel::Warning, "{}: {}", backend_.info().name, moved.error().message);
    }
    active_->interrupt.queue_used(call.queue);
  }
}

void NetDevice::stop_rings() {
  if (calls_.empty()) return;
  for (const Call& call : calls_) {
    loop_.unwatch(call.event.get());
    VirtQueue* queue = active_->queue(call.queue);
    QueueState state = queue->save();
    state.next_avail = backend_.rings()->stop(call.queue);
    // All that was taken has been given back, and the driver was told what it wanted to be told.
    state.next_used = state.next_avail;
    state.signalled_used = state.next_used;
    queue->restore(state);
  }
  calls_.clear();
}

}  // namespace trapeze
