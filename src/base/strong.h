// Strong<Tag, T>: an integer that cannot be mixed up with another one. Only comparison is given;
// types that can be added to have their own class (memory/guest_addr.h).
#pragma once

#include <compare>
#include <cstdint>

namespace trapeze {

template <typename Tag, typename T>
class Strong {
 public:
  constexpr Strong() = default;
  constexpr explicit Strong(T value) : value_(value) {}
  constexpr T raw() const { return value_; }
  constexpr auto operator<=>(const Strong&) const = default;

 private:
  T value_{};
};

using Gsi = Strong<struct GsiTag, uint32_t>;        // global system interrupt number
using VcpuId = Strong<struct VcpuIdTag, uint32_t>;  // index of a vCPU, from 0; also its APIC ID
using Port = Strong<struct PortTag, uint16_t>;      // x86 I/O port

// Width of one port or MMIO access in bytes; the underlying value is the byte count.
enum class Width : uint8_t { Byte = 1, Word = 2, Dword = 4, Qword = 8 };
constexpr unsigned bytes_of(Width width) { return static_cast<unsigned>(width); }
// All ones in `width`: what a read of something that is not there returns.
constexpr uint64_t all_ones(Width width) {
  return width == Width::Qword ? ~uint64_t{0} : (uint64_t{1} << (8 * bytes_of(width))) - 1;
}

}  // namespace trapeze
