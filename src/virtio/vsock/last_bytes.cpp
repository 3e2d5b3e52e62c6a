#include "virtio/vsock/last_bytes.h"

#include <utility>

namespace trapeze {

void LastBytes::add(std::unique_ptr<VsockStream> stream, WaitingBytes bytes) {
  const auto at = deliveries_.emplace(deliveries_.end());
  at->owner = this;
  at->at = at;
  at->stream = std::move(stream);
  at->bytes = std::move(bytes);
  at->stream->attach(&*at);
  at->stream->want(false, true);
}

size_t LastBytes::bytes() const {
  size_t sum = 0;
  for (const Delivery& delivery : deliveries_) sum += delivery.bytes.size();
  return sum;
}

void LastBytes::when_done(std::function<void()> on_done) {
  if (deliveries_.empty()) return on_done();
  on_done_ = std::move(on_done);
}

void LastBytes::go_on(std::list<Delivery>::iterator at) {
  const auto outcome = at->bytes.write_to(*at->stream);
  if (!at->bytes.is_empty() && outcome.status != VsockStream::Status::Failed) return;
  deliveries_.erase(at);
  if (deliveries_.empty() && on_done_) std::exchange(on_done_, nullptr)();
}

}  // namespace trapeze
