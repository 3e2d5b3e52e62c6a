#include "virtio/rate_limiter.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST(TokenBucket, empty_bucket_says_how_long_to_wait) {
  TokenBucket bucket({.size = 100, .one_time_burst = 0, .refill_time_ms = 1000}, 0);
  EXPECT_EQ(bucket.wait_ns(100, 0), 0U);
  bucket.take(100);
  EXPECT_EQ(bucket.wait_ns(1, 0), 10 * kMs);
  EXPECT_EQ(bucket.wait_ns(50, 100 * kMs), 400 * kMs);
  EXPECT_EQ(bucket.wait_ns(50, 500 * kMs), 0U);
}

TEST(TokenBucket, burst_comes_first_and_only_once) {
  TokenBucket bucket({.size = 10, .one_time_burst = 5, .refill_time_ms = 1000}, 0);
  bucket.take(5);
  EXPECT_EQ(bucket.save(), (TokenBucketState{10, 0, 0}));
  bucket.take(10);
  EXPECT_EQ(bucket.wait_ns(10, 1000 * kMs), 0U);
  EXPECT_EQ(bucket.save(), (TokenBucketState{10, 0, 0}));
}

TEST(TokenBucket, more_than_the_bucket_holds_is_paid_later) {
  TokenBucket bucket({.size = 10, .one_time_burst = 0, .refill_time_ms = 1000}, 0);
  EXPECT_EQ(bucket.wait_ns(30, 0), 0U);
  bucket.take(30);
  EXPECT_EQ(bucket.wait_ns(10, 0), 3000 * kMs);
  EXPECT_EQ(bucket.wait_ns(10, 2000 * kMs), 1000 * kMs);
  EXPECT_EQ(bucket.wait_ns(10, 3000 * kMs), 0U);
}

TEST(TokenBucket, fractions_of_tokens_are_not_lost) {
  TokenBucket bucket({.size = 3, .one_time_burst = 0, .refill_time_ms = 1000}, 0);
  bucket.take(3);
  uint64_t now_ns = 0;
  for (int i = 0; i < 1000; ++i) (void)bucket.wait_ns(3, now_ns += kMs);
  EXPECT_EQ(bucket.wait_ns(3, now_ns), 0U);
}

TEST(TokenBucket, huge_sizes_do_not_overflow) {
  const uint64_t most = ~uint64_t{0};
  TokenBucket bucket({.size = most, .one_time_burst = most, .refill_time_ms = most}, 0);
  bucket.take(most);
  bucket.take(most);
  bucket.take(most);
  EXPECT_GT(bucket.wait_ns(most, kMs), 0U);
  EXPECT_EQ(bucket.wait_ns(1, most), 0U);  // centuries later
}

TEST(TokenBucket, no_size_is_no_limit) {
  TokenBucket bucket({}, 0);
  bucket.take(1000);
  EXPECT_EQ(bucket.wait_ns(~uint64_t{0}, 0), 0U);
}

TEST(RateLimiter, nothing_is_taken_when_one_bucket_refuses) {
  RateLimits limits;
  limits.bandwidth = {.size = 100, .one_time_burst = 0, .refill_time_ms = 1000};
  limits.operations = {.size = 10, .one_time_burst = 0, .refill_time_ms = 1000};
  RateLimiter limiter(limits, 0);
  EXPECT_EQ(limiter.take_or_wait_ns(100, 0), 0U);
  EXPECT_GT(limiter.take_or_wait_ns(1, 0), 0U);
  EXPECT_EQ(limiter.operations().save().budget, 9U);
  EXPECT_EQ(limiter.take_or_wait_ns(0, 0), 0U);
}

}  // namespace
}  // namespace trapeze
