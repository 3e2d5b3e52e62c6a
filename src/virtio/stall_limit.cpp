#include "virtio/stall_limit.h"

#include <sys/resource.h>

#include <algorithm>

namespace trapeze {
namespace {

// Longer than what is chosen ever takes by itself, and shorter than a time slice of the host.
constexpr uint64_t kLongNs = 1'000'000;
constexpr uint64_t kFactor = 100;

}  // namespace

uint64_t StallLimit::sleeps_of_thread() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return static_cast<uint64_t>(usage.ru_nvcsw);
}

// HOT
bool StallLimit::begin(uint64_t now_ns) {
  if (now_ns < resume_ns_) return false;
  begin_ns_ = now_ns;
  is_watched_ = now_ns < watch_until_ns_;
  if (is_watched_) sleeps_before_ = sleeps_();
  return true;
}

// HOT
void StallLimit::end(uint64_t now_ns) {
  const uint64_t took_ns = now_ns - begin_ns_;
  if (took_ns < kLongNs) return;
  const uint64_t until_ns = now_ns + took_ns * kFactor;
  watch_until_ns_ = std::max(watch_until_ns_, until_ns);
  if (is_watched_ && sleeps_() != sleeps_before_) resume_ns_ = until_ns;
}

}  // namespace trapeze
