// The words of an option's value, as people write them: PATH,KEY=VALUE,...
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "virtio/rate_limiter.h"

namespace trapeze::cli {

// At single commas; two of them are one that belongs to the text.
std::vector<std::string> split_words(const std::string& text);
// Decimal; nothing for anything else.
std::optional<uint64_t> parse_number(std::string_view text);
// SIZE[:MS[:BURST]], of bytes or operations; the message names `key`.
Result<void> set_bucket(std::optional<TokenBucketConfig>& bucket, const std::string& key,
                        const std::string& value, bool is_bytes);

}  // namespace trapeze::cli
