#include "virtio/served_rings.h"

#include <sys/eventfd.h>

#include "virtio/queue/split_ring.h"

namespace trapeze {

ServedRing ServedRings::ring_of(uint16_t number, VirtQueue& queue) const {
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

void ServedRings::start(RingService& service, ActiveState& active, std::span<const uint16_t> queues,
                        uint64_t more) {
  if (!active.take_doorbell) return;
  service_ = &service;
  active_ = &active;
  std::vector<ServedMemory> memory;
  for (const GpaRange& range : active.memory.regions()) {
    memory.push_back({range.start.raw(), range.size, active.memory.host(range.start, 1)});
  }
  std::vector<ServedRing> rings;
  std::vector<Call> calls;
  for (const uint16_t number : queues) {
    VirtQueue* queue = active.queue(number);
    if (queue == nullptr || queue->is_broken()) continue;
    calls.push_back({number, Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))});
    rings.push_back(ring_of(number, *queue));
  }
  if (rings.empty()) return;
  for (size_t i = 0; i < rings.size(); ++i) {
    rings[i].call = &interrupt_of(calls[i]);
    rings[i].kick = &active.take_doorbell(rings[i].queue);
  }
  const auto started = service.start(active.features & (kTransportFeatures | more), memory, rings);
  if (!started) {
    log(LogLevel::Warning, "{}: {}", name_, started.error().message);
    active.interrupt.needs_reset();
    return;
  }
  calls_ = std::move(calls);
  listen();
}

void ServedRings::listen() {
  for (const Call& call : calls_) {
    const uint16_t number = call.queue;
    // Edge-triggered: nobody needs to read the counter.
    [[maybe_unused]] const auto watched =
        loop_.watch(call.event.get(), EPOLLIN | EPOLLET,
                    [this, number](uint32_t) { active_->interrupt.queue_used(number); });
  }
}

// Best one that the host's kernel turns into the guest's interrupt.
const Fd& ServedRings::interrupt_of(const Call& call) const {
  const Fd* const lent = active_->interrupt.lend_interrupt(call.queue);
  return lent != nullptr ? *lent : call.event;
}

void ServedRings::interrupts_moved() {
  for (const Call& call : calls_) {
    const auto moved = service_->set_call(call.queue, interrupt_of(call));
    if (!moved && log_limiter_.allow()) {
      log(LogLevel::Warning, "{}: {}", name_, moved.error().message);
    }
    active_->interrupt.queue_used(call.queue);
  }
}

void ServedRings::stop() {
  for (const Call& call : calls_) {
    loop_.unwatch(call.event.get());
    VirtQueue* queue = active_->queue(call.queue);
    QueueState state = queue->save();
    state.next_avail = service_->stop(call.queue);
    // All that was taken has been given back, and the driver was told what it wanted to be told.
    state.next_used = state.next_avail;
    state.signalled_used = state.next_used;
    queue->restore(state);
  }
  calls_.clear();
}

}  // namespace trapeze
