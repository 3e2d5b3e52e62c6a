// Sizes and times as people write them: 512M, 2G, 1048576; 10, 2.5, 500ms, 5m.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace trapeze::cli {

// K, M, G, T are powers of 1024, with an optional "B" or "iB" after them. Nothing for anything
// else, for 0 and for what does not fit.
std::optional<uint64_t> parse_size(const std::string& text);
// Seconds, or with a unit: ms, s, m, h. Positive, at most some centuries.
std::optional<std::chrono::nanoseconds> parse_duration(const std::string& text);

}  // namespace trapeze::cli
