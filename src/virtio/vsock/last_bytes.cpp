#include "virtio/vsock/last_bytes.h"

#include <utility>

namespace trapeze {

void LastBytes::add(std::unique_ptr<VsockStream> stream, std::vector<std::byte> bytes) {
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
  for (const Delivery& delivery : deliveries_) sum += delivery.bytes.size() - delivery.done;
  return sum;
}

void LastBytes::when_done(std::function<void()> on_done) {
  if (deliveries_.empty()) return on_done();
  on_done_ = std::move(on_done);
}

void LastBytes::go_on(std::list<Delivery>::iterator at) {
  const iovec rest{at->bytes.data() + at->done, at->bytes.size() - at->done};
  const auto outcome = at->stream->write({&rest, 1});
  at->done += outcome.bytes;
  const bool is_over =
      at->done == at->bytes.size() || outcome.status == VsockStream::Status::Failed;
  if (!is_over) return;
  deliveries_.erase(at);
  if (deliveries_.empty() && on_done_) std::exchange(on_done_, nullptr)();
}

}  // namespace trapeze
