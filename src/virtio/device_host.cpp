#include "virtio/device_host.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "base/event_fd.h"

namespace trapeze {

DeviceHost::DeviceHost(VirtioDevice& device, GuestMemory& memory, EventLoop& loop,
                       DeviceInterrupt& interrupt, std::vector<Fd> doorbells)
    : device_(device),
      memory_(memory),
      loop_(loop),
      interrupt_(interrupt),
      doorbells_(std::move(doorbells)) {}

Result<std::unique_ptr<DeviceHost>> DeviceHost::create(VirtioDevice& device, GuestMemory& memory,
                                                       EventLoop& loop,
                                                       DeviceInterrupt& interrupt) {
  std::vector<Fd> doorbells;
  for (size_t i = 0; i < device.queue_max_sizes().size(); ++i) {
    Fd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!doorbell.is_open()) return fail_errno("cannot create the doorbell of virtqueue {}", i);
    doorbells.push_back(std::move(doorbell));
  }
  return std::unique_ptr<DeviceHost>(
      new DeviceHost(device, memory, loop, interrupt, std::move(doorbells)));
}

DeviceHost::~DeviceHost() { reset(); }

// HOT
void DeviceHost::ring(uint16_t queue) {
  if (queue >= doorbells_.size()) return;
  bool is_served = false;
  if (needs_ring(queue)) loop_.try_turn([&] { is_served = serve_on_vcpu(queue); });
  if (!is_served) kick(queue);
}

bool DeviceHost::serve_on_vcpu(uint16_t index) {
  const VirtQueue* queue = active_ ? active_->queue(index) : nullptr;
  if (queue == nullptr || queue->is_broken()) return false;
  if (!stalls_.begin(clock_.monotonic_ns())) return false;
  const bool is_served = device_.on_vcpu_kick(index);
  stalls_.end(clock_.monotonic_ns());
  return is_served;
}

void DeviceHost::kick(uint16_t queue) { signal_event(doorbells_[queue]); }

void DeviceHost::move_interrupts() {
  if (is_move_posted_.exchange(true, std::memory_order_acq_rel)) return;
  loop_.post([this] {
    is_move_posted_.store(false, std::memory_order_release);
    if (active_) device_.interrupts_moved();
  });
}

void DeviceHost::activate(uint64_t features, std::vector<std::optional<QueueConfig>> queues) {
  const QueueFeatures queue_features{.event_idx = (features & kFeatureEventIdx) != 0,
                                     .indirect = (features & kFeatureIndirectDesc) != 0};
  std::vector<std::optional<QueueState>> states(queues.size());
  for (size_t i = 0; i < queues.size(); ++i) {
    if (!queues[i]) continue;
    states[i].emplace();
    states[i]->config = *queues[i];
    states[i]->features = queue_features;
  }
  loop_.post([this, features, states = std::move(states)] { start(features, states); });
}

void DeviceHost::restore(uint64_t features, std::vector<std::optional<QueueState>> queues) {
  loop_.call([&] { start(features, queues); });
  // Kicks that were under way when the state was saved are lost.
  for (uint16_t i = 0; i < queue_count(); ++i) kick(i);
}

void DeviceHost::reset() {
  loop_.call([this] { stop(); });
}

std::vector<std::optional<QueueState>> DeviceHost::save_queues() {
  std::vector<std::optional<QueueState>> states;
  loop_.call([&] {
    if (!active_) return;
    for (const auto& queue : active_->queues) {
      states.push_back(queue ? std::optional(queue->save()) : std::nullopt);
    }
  });
  return states;
}

void DeviceHost::start(uint64_t features, std::vector<std::optional<QueueState>> queues) {
  stop();
  active_ = std::make_unique<ActiveState>(
      ActiveState{memory_, interrupt_, features, [this](uint16_t queue) { kick(queue); }, {}});
  active_->take_doorbell = [this](uint16_t queue) -> const Fd& {
    loop_.unwatch(doorbells_[queue].get());
    return doorbells_[queue];
  };
  queues.resize(doorbells_.size());
  const auto max_sizes = device_.queue_max_sizes();
  bool is_broken = false;
  for (uint16_t i = 0; i < queues.size(); ++i) {
    auto& queue = active_->queues.emplace_back();
    if (!queues[i]) continue;
    queue.emplace(memory_, [this](QueueFault) { interrupt_.needs_reset(); });
    if (queues[i]->config.size > max_sizes[i]) queues[i]->config.size = 0;
    is_broken |= queue->restore(*queues[i]) != QueueFault::None;
    // Edge-triggered: every kick is an event, and nobody needs to read the counter.
    const auto watched = loop_.watch(doorbells_[i].get(), EPOLLIN | EPOLLET,
                                     [this, i](uint32_t) { on_doorbell(i); });
    is_broken |= !watched.has_value();
  }
  if (is_broken) interrupt_.needs_reset();
  device_.activate(*active_);
}

void DeviceHost::stop() {
  if (!active_) return;
  for (const Fd& doorbell : doorbells_) loop_.unwatch(doorbell.get());
  device_.reset();
  active_.reset();
}

void DeviceHost::on_doorbell(uint16_t index) {
  const VirtQueue* queue = active_->queue(index);
  if (queue == nullptr || queue->is_broken()) return;
  if (device_.on_kick(index)) kick(index);
}

}  // namespace trapeze
