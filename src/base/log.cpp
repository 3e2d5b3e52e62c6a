#include "base/log.h"

#include <unistd.h>

#include <string>

namespace trapeze {
namespace {

std::atomic<int> current_level{static_cast<int>(LogLevel::Warning)};

std::string_view prefix(LogLevel level) {
  switch (level) {
    case LogLevel::Error:
      return "trapeze: ";
    case LogLevel::Warning:
      return "trapeze: warning: ";
    case LogLevel::Info:
      return "trapeze: info: ";
    case LogLevel::Debug:
      return "trapeze: debug: ";
  }
  return "trapeze: ";
}

}  // namespace

void set_log_level(LogLevel level) {
  current_level.store(static_cast<int>(level), std::memory_order_relaxed);
}

bool log_enabled(LogLevel level) {
  return static_cast<int>(level) <= current_level.load(std::memory_order_relaxed);
}

void log_line(LogLevel level, std::string_view text) {
  std::string line(prefix(level));
  line += text;
  line += '\n';
  // A full or closed stderr is no reason to stop a VM.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace trapeze
