#include "virtio/vsock/waiting_bytes.h"

#include <algorithm>

#include "base/units.h"

namespace trapeze {
namespace {

// Moved together only when that is cheap for what has gone: not for every small write.
constexpr size_t kMoveBytes = 128 * KiB;

}  // namespace

void WaitingBytes::append(std::span<const iovec> parts, size_t skipped) {
  for (const iovec& part : parts) {
    const size_t step = std::min(skipped, part.iov_len);
    skipped -= step;
    const auto* from = static_cast<const std::byte*>(part.iov_base);
    bytes_.insert(bytes_.end(), from + step, from + part.iov_len);
  }
}

VsockStream::Outcome WaitingBytes::write_to(VsockStream& stream) {
  VsockStream::Outcome all;
  while (!is_empty()) {
    const iovec rest{bytes_.data() + done_, size()};
    const auto outcome = stream.write({&rest, 1});
    done_ += outcome.bytes;
    all.bytes += outcome.bytes;
    all.status = outcome.status;
    if (outcome.status == VsockStream::Status::Failed || outcome.bytes == 0) break;
  }
  if (is_empty() || done_ >= kMoveBytes) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<ptrdiff_t>(done_));
    done_ = 0;
  }
  return all;
}

void WaitingBytes::clear() {
  bytes_.clear();
  done_ = 0;
}

}  // namespace trapeze
