// What the VMM and its user-network helper say to each other over a pair of SOCK_SEQPACKET sockets,
// and a ring of frames. Both are the same program, so plain structs do.
//
//   VMM                                   helper
//   UserNetworkOrder, ports        --->   sets the network up, gives up its rights
//     with two descriptors: the ring's memory and its eventfd (ring/frame_ring.h)
//                                  <---   an empty text: ready; else what is wrong
//   frames of the guest            --->   one message each
//   one byte                       --->   the `flags` of headers of frames for the guest
//   two bytes                      --->   there is room in the ring again
//                                  <===   frames for the guest, through the ring
//
// A frame is a net::Header and an Ethernet frame.
// The VMM closing its end is the end of the helper; the other way round it is the end of the link.
#pragma once

#include <netinet/in.h>

#include <cstdint>

namespace trapeze::user_wire {

inline constexpr uint32_t kMagic = 0x4e5a'5254;
inline constexpr uint32_t kMaxPorts = 256;
inline constexpr uint32_t kMaxStatusBytes = 512;
// Room for the longest frame (virtio/net/protocol.h) and more.
inline constexpr uint32_t kMaxMessageBytes = 66 * 1024;
inline constexpr size_t kRoomMessageBytes = 2;
inline constexpr int kHelperSocket = 3;  // the helper's descriptor

struct PublishedPort {
  in_addr host_address{};
  uint16_t host_port = 0;
  uint16_t guest_port = 0;
  uint32_t is_udp = 0;
};
static_assert(sizeof(PublishedPort) == 12);

// Followed by `ports` of PublishedPort.
struct UserNetworkOrder {
  uint32_t magic = kMagic;
  uint32_t network = 0;  // host byte order; a /24
  uint16_t mtu = 0;
  uint16_t ports = 0;
  uint32_t may_reach_host_loopback = 0;
};
static_assert(sizeof(UserNetworkOrder) == 16);

// Places in the network, as elsewhere.
inline constexpr uint32_t kGatewayHost = 2;
inline constexpr uint32_t kDnsHost = 3;
inline constexpr uint32_t kGuestHost = 15;

}  // namespace trapeze::user_wire
