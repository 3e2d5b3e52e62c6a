// The layouts and numbers of virtio-vsock (virtio 1.2 §5.10). All integers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trapeze::vsock {

inline constexpr uint16_t kReceiveQueue = 0;  // host to guest
inline constexpr uint16_t kTransmitQueue = 1;
inline constexpr uint16_t kEventQueue = 2;

// Sockets that keep the borders of messages (§5.10.3).
inline constexpr uint64_t kFeatureSeqpacket = uint64_t{1} << 1;

inline constexpr uint64_t kHostCid = 2;
inline constexpr uint64_t kFirstGuestCid = 3;
inline constexpr uint64_t kMaxGuestCid = 0xffff'fffe;  // the upper 32 bits are reserved (§5.10.4)

enum class Op : uint16_t {
  Request = 1,
  Response = 2,
  Reset = 3,
  Shutdown = 4,
  Data = 5,
  CreditUpdate = 6,
  CreditRequest = 7,
};
inline constexpr uint16_t kTypeStream = 1;
inline constexpr uint32_t kShutdownReceive = 1;  // the sender will not receive any more
inline constexpr uint32_t kShutdownSend = 2;
inline constexpr uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

// §5.10.6; packed, because two 64-bit fields are followed by seven others.
struct [[gnu::packed]] Header {
  uint64_t src_cid = 0;
  uint64_t dst_cid = 0;
  uint32_t src_port = 0;
  uint32_t dst_port = 0;
  uint32_t len = 0;
  uint16_t type = kTypeStream;
  uint16_t op = 0;
  uint32_t flags = 0;
  uint32_t buf_alloc = 0;
  uint32_t fwd_cnt = 0;
};
static_assert(sizeof(Header) == 44);

inline constexpr uint32_t kEventTransportReset = 0;

}  // namespace trapeze::vsock
