// Guest physical addresses and ranges of them. Arithmetic that could overflow is checked by
// GpaRange::create; everything else works on ranges that are known to be sound.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace trapeze {

class Gpa {
 public:
  constexpr Gpa() = default;
  constexpr explicit Gpa(uint64_t address) : address_(address) {}
  constexpr uint64_t raw() const { return address_; }
  constexpr auto operator<=>(const Gpa&) const = default;
  constexpr Gpa operator+(uint64_t bytes) const { return Gpa(address_ + bytes); }
  constexpr uint64_t operator-(Gpa other) const { return address_ - other.address_; }

 private:
  uint64_t address_ = 0;
};

// [start, start + size): never wraps around the address space.
struct GpaRange {
  Gpa start;
  uint64_t size = 0;

  static constexpr std::optional<GpaRange> create(Gpa start, uint64_t size) {
    if (size > ~uint64_t{0} - start.raw()) return std::nullopt;
    return GpaRange{start, size};
  }
  constexpr Gpa end() const { return start + size; }
  constexpr bool contains(Gpa gpa) const { return gpa >= start && gpa - start < size; }
  constexpr bool contains(Gpa gpa, uint64_t len) const {
    return gpa >= start && gpa - start <= size && len <= size - (gpa - start);
  }
  constexpr bool overlaps(const GpaRange& other) const {
    return start < other.end() && other.start < end() && size != 0 && other.size != 0;
  }
  constexpr bool operator==(const GpaRange&) const = default;
};

}  // namespace trapeze
