#include "virtio/vsock/served_device.h"

#include <cstring>

namespace trapeze {
namespace {

// What the other side has to know besides the features of rings.
constexpr uint64_t kServedFeatures = vsock::kFeatureSeqpacket;
constexpr std::array<uint16_t, 2> kServedQueues{vsock::kReceiveQueue, vsock::kTransmitQueue};

}  // namespace

uint64_t ServedVsockDevice::offered_features() const {
  return service_.features() & kServedFeatures;
}

void ServedVsockDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&guest_cid_) + offset, to.size());
}

void ServedVsockDevice::activate(ActiveState& state) {
  active_ = &state;
  start_rings();
  transport_reset_.tell(state);
}

// A driver that leaves one of them out has no sockets.
void ServedVsockDevice::start_rings() {
  for (const uint16_t number : kServedQueues) {
    const VirtQueue* queue = active_->queue(number);
    if (queue == nullptr || queue->is_broken()) return;
  }
  rings_.start(service_, *active_, kServedQueues, kServedFeatures);
}

bool ServedVsockDevice::on_kick(uint16_t queue) {
  if (active_ != nullptr && queue == vsock::kEventQueue) transport_reset_.tell(*active_);
  return false;
}

void ServedVsockDevice::reset() {
  rings_.stop();
  active_ = nullptr;
}

VsockState ServedVsockDevice::save() {
  rings_.stop();
  return {.guest_cid = guest_cid_};
}

void ServedVsockDevice::resume() {
  if (active_ != nullptr && !rings_.are_served()) start_rings();
}

}  // namespace trapeze
