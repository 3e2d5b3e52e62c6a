// Line logger on stderr: "trapeze: warning: ...". Never on a hot path. What a guest can cause as
// often as it likes goes through a LogLimiter, so that a hostile guest cannot fill a disk.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string_view>

namespace trapeze {

enum class LogLevel : int { Error = 0, Warning = 1, Info = 2, Debug = 3 };

void set_log_level(LogLevel level);  // default: Warning; `--verbose` sets Info
bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view text);  // any thread; one write() a line

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> text, Args&&... args) {
  if (log_enabled(level)) log_line(level, fmt::format(text, std::forward<Args>(args)...));
}

// Allows `limit` events, then stays silent. One per place and device.
class LogLimiter {
 public:
  explicit LogLimiter(uint32_t limit = 8) : left_(limit) {}
  bool allow() {
    uint32_t left = left_.load(std::memory_order_relaxed);
    while (left > 0 && !left_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) {
    }
    return left > 0;
  }

 private:
  std::atomic<uint32_t> left_;
};

}  // namespace trapeze
