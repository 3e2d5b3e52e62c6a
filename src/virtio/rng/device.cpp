#include "virtio/rng/device.h"

#include <algorithm>

#include "virtio/queue/iov.h"

namespace trapeze {

bool RngDevice::on_kick(uint16_t index) {
  VirtQueue* queue = active_->queue(index);
  if (queue == nullptr) return false;
  const bool has_more = serve(*queue, chain_, kMaxChainsPerTurn, [&](Chain& chain) {
    queue->push_used(chain, fill(chain));
    return true;
  });
  active_->notify_used(index);
  return has_more;
}

uint64_t RngDevice::fill(Chain& chain) {
  ChainWriter writer(chain);
  while (writer.remaining() > 0 && writer.position() < kMaxBytesPerChain) {
    auto part = writer.contiguous();
    part = part.first(std::min<uint64_t>(part.size(), kMaxBytesPerChain - writer.position()));
    const size_t got = source_.fill(part);
    writer.commit(got);
    if (got < part.size()) {
      metrics_.source_failures.add();
      break;
    }
  }
  metrics_.requests.add();
  metrics_.bytes.add(writer.position());
  return writer.position();
}

}  // namespace trapeze
