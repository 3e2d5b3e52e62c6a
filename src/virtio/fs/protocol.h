// The layouts and numbers of virtio-fs (virtio 1.2 §5.11). All integers are little-endian; requests
// are those of FUSE and none of the device's business.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trapeze::fs {

inline constexpr size_t kTagBytes = 36;

// §5.11.4. The tag is UTF-8, filled up with zeros, and has no zero of its own when it is full.
struct Config {
  char tag[kTagBytes] = {};
  uint32_t num_request_queues = 0;
};
inline constexpr uint32_t kConfigBytes = 40;
static_assert(sizeof(Config) == kConfigBytes && offsetof(Config, num_request_queues) == 36);

// §5.11.2: queue 0 takes what must not wait behind other requests (without
// VIRTIO_FS_F_NOTIFICATION, which is not offered, there is no notification queue).
inline constexpr uint16_t kHighPriorityQueue = 0;
inline constexpr uint16_t kFirstRequestQueue = 1;

// §5.11.6.1: every request starts with a fuse_in_header, every reply with a fuse_out_header.
inline constexpr uint32_t kRequestHeaderBytes = 40;
inline constexpr uint32_t kReplyHeaderBytes = 16;

}  // namespace trapeze::fs
