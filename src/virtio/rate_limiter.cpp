#include "virtio/rate_limiter.h"

namespace trapeze {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
// Sizes may be any 64-bit number, refill times are bounded: products of both fit.
using Wide = unsigned __int128;

}  // namespace

void TokenBucket::refill(uint64_t now_ns) {
  if (now_ns <= filled_ns_) return;
  const Wide refill_ns = Wide{config_.refill_time_ms} * kNsPerMs;
  const Wide gained = Wide{now_ns - filled_ns_} * config_.size / refill_ns;
  if (gained == 0) return;  // the fraction is kept: the time is not moved on
  const Wide missing = Wide{state_.debt} + (config_.size - state_.budget);
  if (gained >= missing) {
    state_.debt = 0;
    state_.budget = config_.size;
    filled_ns_ = now_ns;
    return;
  }
  const auto tokens = static_cast<uint64_t>(gained);
  const uint64_t paid = std::min(state_.debt, tokens);
  state_.debt -= paid;
  state_.budget += tokens - paid;
  filled_ns_ += static_cast<uint64_t>(gained * refill_ns / config_.size);
}

uint64_t TokenBucket::wait_ns(uint64_t tokens, uint64_t now_ns) {
  if (!is_limited()) return 0;
  refill(now_ns);
  const Wide wanted = Wide{state_.debt} + Wide{std::min(tokens, config_.size)};
  const Wide there = Wide{state_.budget} + state_.burst;
  if (wanted <= there) return 0;
  const Wide refill_ns = Wide{config_.refill_time_ms} * kNsPerMs;
  const Wide needed_ns = ((wanted - there) * refill_ns + config_.size - 1) / config_.size;
  const uint64_t since_ns = now_ns - std::min(now_ns, filled_ns_);
  const Wide left_ns = needed_ns > since_ns ? needed_ns - since_ns : 1;
  constexpr Wide kMostNs = Wide{86'400} * 1'000'000'000;
  return static_cast<uint64_t>(std::min(left_ns, kMostNs));
}

void TokenBucket::take(uint64_t tokens) {
  if (!is_limited()) return;
  const uint64_t from_burst = std::min(tokens, state_.burst);
  state_.burst -= from_burst;
  tokens -= from_burst;
  const uint64_t from_budget = std::min(tokens, state_.budget);
  state_.budget -= from_budget;
  state_.debt += tokens - from_budget;
}

void TokenBucket::restore(const TokenBucketState& state) {
  state_.budget = std::min(state.budget, config_.size);
  state_.burst = std::min(state.burst, config_.one_time_burst);
  state_.debt = state.debt;
}

uint64_t RateLimiter::take_or_wait_ns(uint64_t bytes, uint64_t now_ns) {
  const uint64_t wait_ns =
      std::max(operations_.wait_ns(1, now_ns), bytes != 0 ? bandwidth_.wait_ns(bytes, now_ns) : 0);
  if (wait_ns != 0) return wait_ns;
  operations_.take(1);
  if (bytes != 0) bandwidth_.take(bytes);
  return 0;
}

}  // namespace trapeze
