// RateLimiter: two token buckets, for bytes and for operations, with the meaning that Firecracker's
// API gives them. A bucket starts full; it holds `size` tokens and fills from empty in
// `refill_time_ms`; `one_time_burst` more are there at the start and never come back.
// One thread, the device's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

namespace trapeze {

struct TokenBucketConfig {
  uint64_t size = 0;
  uint64_t one_time_burst = 0;
  uint64_t refill_time_ms = 0;
  bool operator==(const TokenBucketConfig&) const = default;
};

// What a snapshot keeps.
struct TokenBucketState {
  uint64_t budget = 0;
  uint64_t burst = 0;
  uint64_t debt = 0;  // tokens that were taken beyond the bucket
  bool operator==(const TokenBucketState&) const = default;
};

class TokenBucket {
 public:
  static constexpr uint64_t kMaxRefillMs = 86'400'000;  // a day

  // Size or refill time 0: no limit.
  TokenBucket(const TokenBucketConfig& config, uint64_t now_ns)
      : config_(config), state_{config.size, config.one_time_burst, 0}, filled_ns_(now_ns) {
    config_.refill_time_ms = std::min(config_.refill_time_ms, kMaxRefillMs);
  }

  bool is_limited() const { return config_.size != 0 && config_.refill_time_ms != 0; }
  // Nanoseconds until `tokens` can be taken; 0: now. What is larger than the bucket is let through
  // when the bucket is full, or it would wait for ever.
  uint64_t wait_ns(uint64_t tokens, uint64_t now_ns);
  // Right after wait_ns() said 0. More than the bucket holds becomes debt, paid by later waiting.
  void take(uint64_t tokens);

  TokenBucketState save() const { return state_; }
  void restore(const TokenBucketState& state);

 private:
  void refill(uint64_t now_ns);

  TokenBucketConfig config_;
  TokenBucketState state_;
  uint64_t filled_ns_;
};

struct RateLimits {
  std::optional<TokenBucketConfig> bandwidth;  // tokens are bytes
  std::optional<TokenBucketConfig> operations;
  bool operator==(const RateLimits&) const = default;
};

class RateLimiter {
 public:
  RateLimiter(const RateLimits& limits, uint64_t now_ns)
      : bandwidth_(limits.bandwidth.value_or(TokenBucketConfig{}), now_ns),
        operations_(limits.operations.value_or(TokenBucketConfig{}), now_ns) {}

  bool is_limited() const { return bandwidth_.is_limited() || operations_.is_limited(); }
  // Takes one operation and `bytes` when both buckets allow it and returns 0; else takes nothing
  // and returns how long to wait.
  uint64_t take_or_wait_ns(uint64_t bytes, uint64_t now_ns);

  TokenBucket& bandwidth() { return bandwidth_; }
  TokenBucket& operations() { return operations_; }

 private:
  TokenBucket bandwidth_;
  TokenBucket operations_;
};

}  // namespace trapeze
