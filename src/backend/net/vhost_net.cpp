#include "backend/net/vhost_net.h"

#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>

#include "base/log.h"
#include "virtio/net/protocol.h"

namespace trapeze {
namespace {

// We would have to translate headers otherwise.
constexpr uint64_t kNeeded = net::kFeatureMergeableBuffers;
constexpr int kNoBackend = -1;

}  // namespace

Result<std::unique_ptr<VhostNet>> VhostNet::create(std::vector<const Fd*> taps, const char* device,
                                                   KernelVhost::Ioctl call) {
  std::unique_ptr<VhostNet> vhost(new VhostNet);
  for (const Fd* tap : taps) {
    vhost->pairs_.push_back(
        {.vhost = TRY(KernelVhost::open(device, kNeeded, call)), .tap = tap, .is_running = {}});
  }
  return vhost;
}

VhostNet::~VhostNet() {
  for (uint16_t queue = 0; queue < pairs_.size() * 2; ++queue) stop(queue);
}

Result<void> VhostNet::start(uint64_t features, std::span<const ServedMemory> memory,
                             std::span<const ServedRing> rings) {
  for (Pair& pair : pairs_) TRY(pair.vhost.set_up(features, memory));
  Result<void> result;
  for (const ServedRing& ring : rings) {
    result = start_ring(ring);
    if (!result) break;
  }
  if (!result) {
    for (const ServedRing& ring : rings) stop(ring.queue);
  }
  return result;
}

Result<void> VhostNet::start_ring(const ServedRing& ring) {
  Pair& pair = pairs_[ring.queue / 2];
  const unsigned index = ring.queue % 2;
  TRY(pair.vhost.set_ring(index, ring));
  TRY(pair.vhost.set(VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND",
                     vhost_vring_file{.index = index, .fd = pair.tap->get()}));
  pair.is_running[index] = true;
  return {};
}

Result<void> VhostNet::set_call(uint16_t queue, const Fd& call) {
  return pairs_[queue / 2].vhost.set_call(queue % 2, call);
}

uint16_t VhostNet::stop(uint16_t queue) {
  Pair& pair = pairs_[queue / 2];
  const unsigned index = queue % 2;
  if (!pair.is_running[index]) return 0;
  pair.is_running[index] = false;
  // Waits for what is under way.
  const auto stopped = pair.vhost.set(VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND",
                                      vhost_vring_file{.index = index, .fd = kNoBackend});
  if (!stopped) log(LogLevel::Warning, "a ring cannot be stopped: {}", stopped.error().message);
  return pair.vhost.next_avail(index);
}

}  // namespace trapeze
