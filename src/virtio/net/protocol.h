// The layouts and numbers of virtio-net (virtio 1.2 §5.1). All integers are little-endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "virtio/features.h"

namespace trapeze::net {

// §5.1.3
inline constexpr uint64_t kFeatureCsum = feature_bit(0);
inline constexpr uint64_t kFeatureGuestCsum = feature_bit(1);
inline constexpr uint64_t kFeatureCtrlGuestOffloads = feature_bit(2);
inline constexpr uint64_t kFeatureMtu = feature_bit(3);
inline constexpr uint64_t kFeatureMac = feature_bit(5);
inline constexpr uint64_t kFeatureGuestTso4 = feature_bit(7);
inline constexpr uint64_t kFeatureGuestTso6 = feature_bit(8);
inline constexpr uint64_t kFeatureGuestEcn = feature_bit(9);
inline constexpr uint64_t kFeatureGuestUfo = feature_bit(10);
inline constexpr uint64_t kFeatureHostTso4 = feature_bit(11);
inline constexpr uint64_t kFeatureHostTso6 = feature_bit(12);
inline constexpr uint64_t kFeatureHostEcn = feature_bit(13);
inline constexpr uint64_t kFeatureMergeableBuffers = feature_bit(15);
inline constexpr uint64_t kFeatureStatus = feature_bit(16);
inline constexpr uint64_t kFeatureCtrlVq = feature_bit(17);
inline constexpr uint64_t kFeatureGuestAnnounce = feature_bit(21);
inline constexpr uint64_t kFeatureMultiQueue = feature_bit(22);
inline constexpr uint64_t kFeatureCtrlMacAddr = feature_bit(23);

// What the driver can take in, as far as it can change that later (§5.1.6.5.6.1).
inline constexpr uint64_t kGuestOffloads =
    kFeatureGuestCsum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn;
inline constexpr uint64_t kHostOffloads =
    kFeatureCsum | kFeatureHostTso4 | kFeatureHostTso6 | kFeatureHostEcn;

using MacAddress = std::array<uint8_t, 6>;

// §5.1.4
struct Config {
  MacAddress mac{};
  uint16_t status = 0;
  uint16_t max_virtqueue_pairs = 0;
  uint16_t mtu = 0;
};
inline constexpr uint32_t kConfigBytes = 12;
static_assert(sizeof(Config) == kConfigBytes && offsetof(Config, mtu) == 10);

inline constexpr uint16_t kStatusLinkUp = 1;
inline constexpr uint16_t kStatusAnnounce = 2;

inline constexpr uint16_t kMinMtu = 68;     // §5.1.4.1
inline constexpr uint16_t kMaxMtu = 65521;  // an IP packet of 64 KiB less an Ethernet header

// §5.1.2: queues 2n and 2n+1 receive and send for pair n, the control queue comes after the last.
constexpr uint16_t receive_queue(uint16_t pair) { return static_cast<uint16_t>(pair * 2); }
constexpr uint16_t transmit_queue(uint16_t pair) { return static_cast<uint16_t>(pair * 2 + 1); }

// §5.1.6: before each frame, in both directions.
struct Header {
  uint8_t flags = 0;
  uint8_t gso_type = 0;
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0;
  uint16_t csum_start = 0;
  uint16_t csum_offset = 0;
  uint16_t num_buffers = 0;
};
inline constexpr uint32_t kHeaderBytes = 12;
static_assert(sizeof(Header) == kHeaderBytes && offsetof(Header, num_buffers) == 10);

inline constexpr uint8_t kHeaderNeedsCsum = 1;
inline constexpr uint8_t kHeaderDataValid = 2;
inline constexpr uint8_t kGsoNone = 0;

inline constexpr uint32_t kEthernetHeaderBytes = 14;
// The longest frame, header included: an IP packet of 64 KiB with Ethernet and VLAN headers.
inline constexpr uint32_t kMaxFrameBytes = kHeaderBytes + kEthernetHeaderBytes + 4 + 65535;
// Without segmentation offloads and with the usual MTU (§5.1.6.3.1).
inline constexpr uint32_t kPlainFrameBytes = kHeaderBytes + kEthernetHeaderBytes + 1500;

// §5.1.6.5
struct ControlHeader {
  uint8_t command_class = 0;
  uint8_t command = 0;
};
static_assert(sizeof(ControlHeader) == 2);

enum class ControlClass : uint8_t { Rx = 0, Mac = 1, Vlan = 2, Announce = 3, Mq = 4, Offloads = 5 };
inline constexpr uint8_t kMacAddrSet = 1;
inline constexpr uint8_t kAnnounceAck = 0;
inline constexpr uint8_t kMqPairsSet = 0;
inline constexpr uint8_t kOffloadsSet = 0;

inline constexpr uint8_t kAckOk = 0;
inline constexpr uint8_t kAckError = 1;

}  // namespace trapeze::net
