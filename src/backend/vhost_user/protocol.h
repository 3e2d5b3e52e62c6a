// The messages of vhost-user, as far as we speak it (QEMU, docs/interop/vhost-user). In the byte
// order of the host, which is the back end's too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trapeze::vhost_user {

enum class Request : uint32_t {
  GetFeatures = 1,
  SetFeatures = 2,
  SetOwner = 3,
  SetMemTable = 5,
  SetVringNum = 8,
  SetVringAddr = 9,
  SetVringBase = 10,
  GetVringBase = 11,
  SetVringKick = 12,
  SetVringCall = 13,
  GetProtocolFeatures = 15,
  SetProtocolFeatures = 16,
  GetQueueNum = 17,
  SetVringEnable = 18,
  GetConfig = 24,
  SetConfig = 25,
};

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of what follows
};
static_assert(sizeof(Header) == 12);

inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kFlagReply = 4;
inline constexpr uint32_t kFlagNeedReply = 8;

// A device feature that says: there are protocol features.
inline constexpr uint64_t kFeatureProtocol = uint64_t{1} << 30;

inline constexpr uint64_t kProtocolMultiQueue = uint64_t{1} << 0;
inline constexpr uint64_t kProtocolReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kProtocolConfig = uint64_t{1} << 9;

struct VringState {
  uint32_t index = 0;
  uint32_t num = 0;
};
static_assert(sizeof(VringState) == 8);

struct VringAddr {
  uint32_t index = 0;
  uint32_t flags = 0;
  uint64_t desc = 0;
  uint64_t used = 0;
  uint64_t avail = 0;
  uint64_t log = 0;
};
static_assert(sizeof(VringAddr) == 40);

// SetVringKick and SetVringCall: the queue, and whether there is no fd.
inline constexpr uint64_t kNoFd = 0x100;

struct MemRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t user_address = 0;
  uint64_t file_offset = 0;
};
static_assert(sizeof(MemRegion) == 32);

struct MemTableHeader {
  uint32_t regions = 0;
  uint32_t padding = 0;
};
inline constexpr size_t kMaxRegions = 8;  // of the protocol

struct ConfigHeader {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;  // 0: what the driver may write
};
static_assert(sizeof(ConfigHeader) == 12);
inline constexpr size_t kMaxConfigBytes = 256;

// The longest that we send or take.
inline constexpr size_t kMaxPayload = 512;

}  // namespace trapeze::vhost_user
