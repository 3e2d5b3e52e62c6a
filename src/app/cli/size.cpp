#include "app/cli/size.h"

#include <array>
#include <charconv>
#include <cmath>
#include <string_view>

namespace trapeze::cli {
namespace {

struct Unit {
  std::string_view suffix;
  double seconds;
};
constexpr std::array<Unit, 4> kUnits = {Unit{"ms", 1e-3}, Unit{"s", 1}, Unit{"m", 60},
                                        Unit{"h", 3600}};

}  // namespace

std::optional<uint64_t> parse_size(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value == 0) return std::nullopt;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  if (unit.empty()) return value;
  constexpr std::string_view kPrefixes = "KMGT";
  const size_t power = kPrefixes.find(static_cast<char>(unit.front() & ~0x20));
  unit.remove_prefix(1);
  if (power == std::string_view::npos || !(unit.empty() || unit == "B" || unit == "iB")) {
    return std::nullopt;
  }
  const unsigned shift = 10 * (static_cast<unsigned>(power) + 1);
  if (value > (~uint64_t{0} >> shift)) return std::nullopt;
  return value << shift;
}

std::optional<std::chrono::nanoseconds> parse_duration(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || !std::isfinite(value)) return std::nullopt;
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  double factor = suffix.empty() ? 1 : 0;
  for (const Unit& unit : kUnits) {
    if (suffix == unit.suffix) factor = unit.seconds;
  }
  const double seconds = value * factor;
  constexpr double kMost = 9e9;  // what int64 nanoseconds hold
  if (!(seconds > 0) || seconds > kMost) return std::nullopt;
  const auto nanoseconds = static_cast<int64_t>(seconds * 1e9);
  return std::chrono::nanoseconds(nanoseconds > 0 ? nanoseconds : 1);
}

}  // namespace trapeze::cli
