#include "backend/net/helper/guest_frame.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "backend/net/user_wire.h"

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

namespace {

// The transport header of an IPv4 packet that is addressed to the virtual network or to all.
struct Segment {
  bool is_ours = false;
  bool is_fragment = false;
  uint32_t from = 0;
  uint32_t to = 0;
  uint8_t protocol = 0;
  std::span<const std::byte> bytes;
};

uint32_t load_be32(std::span<const std::byte> bytes, size_t offset) {
  return uint32_t{load_be16(bytes, offset)} << 16 | load_be16(bytes, offset + 2);
}

Segment segment_of(std::span<const std::byte> frame) {
  if (frame.size() < kEthernetBytes + kIpv4Bytes || load_be16(frame, 12) != kTypeIpv4) return {};
  const auto packet = frame.subspan(kEthernetBytes);
  const size_t header_bytes = (byte_at(packet, 0) & 0xfU) * 4U;
  if (header_bytes < kIpv4Bytes || header_bytes > packet.size()) return {};
  return {.is_ours = true,
          .is_fragment = (load_be16(packet, 6) & 0xbfff) != 0,
          .from = load_be32(packet, 12),
          .to = load_be32(packet, 16),
          .protocol = byte_at(packet, 9),
          .bytes = packet.subspan(header_bytes)};
}

constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr uint16_t kDhcpPort = 67;
constexpr uint16_t kDnsPort = 53;
constexpr uint8_t kTcpSyn = 2;
constexpr uint8_t kTcpAck = 16;

}  // namespace

bool GatewayGuard::may_pass(std::span<const std::byte> frame) const {
  const Segment segment = segment_of(frame);
  const bool is_near = (segment.to & 0xffff'ff00) == network_ || segment.to == 0xffff'ffff;
  if (!segment.is_ours || !is_near) return true;
  if (segment.protocol != kTcp && segment.protocol != kUdp) return true;
  // Up to the flags of TCP, or all of a UDP header.
  const size_t needed = segment.protocol == kTcp ? 14 : 8;
  if (segment.is_fragment || segment.bytes.size() < needed) return false;
  const uint16_t from_port = load_be16(segment.bytes, 0);
  const uint16_t to_port = load_be16(segment.bytes, 2);
  if (segment.to == (network_ | user_wire::kDnsHost) && to_port == kDnsPort) return true;
  if (segment.protocol == kTcp) {
    return (byte_at(segment.bytes, 13) & (kTcpSyn | kTcpAck)) != kTcpSyn;
  }
  if (to_port == kDhcpPort) return true;
  return segment.to == (network_ | user_wire::kGatewayHost) &&
         std::find(asked_.begin(), asked_.end(), Asked{to_port, from_port}) != asked_.end();
}

void GatewayGuard::note_to_guest(std::span<const std::byte> frame) {
  const Segment segment = segment_of(frame);
  if (!segment.is_ours || segment.protocol != kUdp || segment.bytes.size() < 8 ||
      segment.from != (network_ | user_wire::kGatewayHost)) {
    return;
  }
  const Asked asked{load_be16(segment.bytes, 0), load_be16(segment.bytes, 2)};
  if (std::find(asked_.begin(), asked_.end(), asked) != asked_.end()) return;
  asked_[next_] = asked;
  next_ = (next_ + 1) % kMaxAsked;
}

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
