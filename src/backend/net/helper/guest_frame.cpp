#include "backend/net/helper/guest_frame.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

namespace trapeze {
namespace {

constexpr size_t kEthernetBytes = 14;
constexpr size_t kIpv4Bytes = 20;
constexpr size_t kIpv6Bytes = 40;
constexpr uint16_t kTypeIpv4 = 0x0800;
constexpr uint16_t kTypeIpv6 = 0x86dd;

uint16_t load_be16(std::span<const std::byte> bytes, size_t offset) {
  uint16_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return ntohs(value);
}

uint8_t byte_at(std::span<const std::byte> bytes, size_t offset) {
  return static_cast<uint8_t>(bytes[offset]);
}

bool is_loopback4(std::span<const std::byte> bytes, size_t offset) {
  return byte_at(bytes, offset) == 127 || byte_at(bytes, offset) == 0;
}

// ::1, :: and IPv4 addresses in IPv6 clothes (::a.b.c.d, ::ffff:a.b.c.d).
bool is_loopback6(std::span<const std::byte> bytes, size_t offset) {
  const auto address = bytes.subspan(offset, 16);
  const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
  return std::all_of(address.begin(), address.begin() + 10, is_zero);
}

FrameKind classify_ipv4(std::span<const std::byte> packet) {
  if (packet.size() < kIpv4Bytes) return FrameKind::Ordinary;  // dropped by whoever parses it
  // The source may be 0.0.0.0: that is how DHCP begins.
  const bool is_forbidden = byte_at(packet, 12) == 127 || is_loopback4(packet, 16);
  if (is_forbidden) return FrameKind::Forbidden;
  // All but "don't fragment": more to come, or not at the beginning.
  return (load_be16(packet, 6) & 0xbfff) != 0 ? FrameKind::Fragment : FrameKind::Ordinary;
}

FrameKind classify_ipv6(std::span<const std::byte> packet) {
  if (packet.size() < kIpv6Bytes) return FrameKind::Ordinary;
  return is_loopback6(packet, 24) ? FrameKind::Forbidden : FrameKind::Ordinary;
}

}  // namespace

uint16_t internet_checksum(std::span<const std::byte> bytes) {
  // 32 bits at a time: a one's complement sum does not care, once it is folded.
  uint64_t sums[4] = {};
  size_t at = 0;
  for (; at + 16 <= bytes.size(); at += 16) {
    uint32_t words[4];
    std::memcpy(words, bytes.data() + at, sizeof(words));
    for (int i = 0; i < 4; ++i) sums[i] += words[i];
  }
  uint64_t sum = sums[0] + sums[1] + sums[2] + sums[3];
  for (; at < bytes.size(); at += 2) {
    uint16_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<size_t>(2, bytes.size() - at));
    sum += word;
  }
  while ((sum >> 16) != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

bool complete_checksum(std::span<std::byte> frame, uint16_t start, uint16_t offset) {
  const size_t place = size_t{start} + offset;
  if (start < kEthernetBytes || place + 2 > frame.size()) return false;
  uint16_t sum = internet_checksum(frame.subspan(start));
  if (sum == 0) sum = 0xffff;  // RFC 768: 0 would mean "none"
  std::memcpy(frame.data() + place, &sum, sizeof(sum));
  return true;
}

FrameKind classify_frame(std::span<const std::byte> frame) {
  if (frame.size() < kEthernetBytes) return FrameKind::Forbidden;
  const uint16_t type = load_be16(frame, 12);
  if (type == kTypeIpv4) return classify_ipv4(frame.subspan(kEthernetBytes));
  if (type == kTypeIpv6) return classify_ipv6(frame.subspan(kEthernetBytes));
  return FrameKind::Ordinary;
}

}  // namespace trapeze
