#include "app/cli/words.h"

#include <charconv>

#include "app/cli/size.h"

namespace trapeze::cli {

std::vector<std::string> split_words(const std::string& text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back() += ',';
      ++i;
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

namespace {

// SIZE[:MS[:BURST]]
std::optional<TokenBucketConfig> parse_bucket(const std::string& text, bool is_bytes) {
  const auto amount = [&](const std::string& word) {
    return is_bytes ? parse_size(word) : parse_number(word);
  };
  TokenBucketConfig bucket{.size = 0, .one_time_burst = 0, .refill_time_ms = 1000};
  const size_t first = text.find(':');
  const auto size = amount(text.substr(0, first));
  if (!size || *size == 0) return std::nullopt;
  bucket.size = *size;
  if (first == std::string::npos) return bucket;
  const size_t second = text.find(':', first + 1);
  const auto refill = parse_number(std::string_view(text).substr(
      first + 1, second == std::string::npos ? second : second - first - 1));
  if (!refill || *refill == 0 || *refill > TokenBucket::kMaxRefillMs) return std::nullopt;
  bucket.refill_time_ms = *refill;
  if (second == std::string::npos) return bucket;
  const auto burst = amount(text.substr(second + 1));
  if (!burst) return std::nullopt;
  bucket.one_time_burst = *burst;
  return bucket;
}

}  // namespace

Result<void> set_bucket(std::optional<TokenBucketConfig>& bucket, const std::string& key,
                        const std::string& value, bool is_bytes) {
  bucket = parse_bucket(value, is_bytes);
  if (bucket) return {};
  const char* example = is_bytes ? "20M" : "500";
  const char* bucket_example = is_bytes ? "20M:100:64M" : "500:100:2000";
  return fail(
      "{}={}: not a limit; write for example {}={}, or {}={} (size:refill in ms:burst) for a token "
      "bucket",
      key, value, key, example, key, bucket_example);
}

}  // namespace trapeze::cli
