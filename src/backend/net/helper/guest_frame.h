// What the helper looks at in a frame of the guest before libslirp gets it. Hostile bytes; no state
// but the budget for fragments.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace trapeze {

// The Internet checksum (RFC 1071) of `bytes`, in network order when stored as it is.
uint16_t internet_checksum(std::span<const std::byte> bytes);

// Fills the checksum in that the guest left open (virtio 1.2 §5.1.6.2): over all from `start` on,
// stored `offset` behind it. False when that is not within the frame.
bool complete_checksum(std::span<std::byte> frame, uint16_t start, uint16_t offset);

enum class FrameKind : uint8_t { Ordinary, Fragment, Forbidden };

// Forbidden: from or to the loopback network, which no network carries. A library that does not
// look would connect to the host's own services for it.
FrameKind classify_frame(std::span<const std::byte> frame);

// Keeps the guest from the host's loopback services behind the gateway's address where libslirp
// cannot: with UDP ports published it needs that address open, because answers go back to it.
// What may pass then: DNS, DHCP, ICMP, connections that the host began, and answers to datagrams.
class GatewayGuard {
 public:
  // `network` in host byte order, a /24.
  explicit GatewayGuard(uint32_t network) : network_(network) {}
  bool may_pass(std::span<const std::byte> frame) const;
  // A frame for the guest: what it may answer.
  void note_to_guest(std::span<const std::byte> frame);

 private:
  struct Asked {
    uint16_t gateway_port = 0;
    uint16_t guest_port = 0;
    bool operator==(const Asked&) const = default;
  };
  static constexpr size_t kMaxAsked = 256;  // the latest ones

  uint32_t network_;
  std::array<Asked, kMaxAsked> asked_{};
  size_t next_ = 0;
};

// Fragments are kept until they are complete or too old: so many bytes of them in so much time is
// what a guest can make the helper keep.
class FragmentBudget {
 public:
  static constexpr uint64_t kBytes = 8 << 20;
  static constexpr uint64_t kPeriodMs = 60'000;
  bool take(size_t bytes, uint64_t now_ms) {
    if (now_ms - since_ms_ > kPeriodMs) {
      since_ms_ = now_ms;
      used_ = 0;
    }
    if (bytes > kBytes - used_) return false;
    used_ += bytes;
    return true;
  }

 private:
  uint64_t since_ms_ = 0;
  uint64_t used_ = 0;
};

}  // namespace trapeze
