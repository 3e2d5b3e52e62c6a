// The layouts and numbers of virtio-blk (virtio 1.2 §5.2). All integers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "virtio/features.h"

namespace trapeze::block {

inline constexpr uint64_t kFeatureSizeMax = feature_bit(1);
inline constexpr uint64_t kFeatureSegMax = feature_bit(2);
inline constexpr uint64_t kFeatureReadOnly = feature_bit(5);
inline constexpr uint64_t kFeatureBlkSize = feature_bit(6);
inline constexpr uint64_t kFeatureFlush = feature_bit(9);
inline constexpr uint64_t kFeatureTopology = feature_bit(10);
inline constexpr uint64_t kFeatureConfigWce = feature_bit(11);
inline constexpr uint64_t kFeatureMultiQueue = feature_bit(12);
inline constexpr uint64_t kFeatureDiscard = feature_bit(13);
inline constexpr uint64_t kFeatureWriteZeroes = feature_bit(14);

// §5.2.4
struct Config {
  uint64_t capacity_sectors = 0;
  uint32_t size_max = 0;
  uint32_t seg_max = 0;
  uint16_t cylinders = 0;
  uint8_t heads = 0;
  uint8_t sectors = 0;
  uint32_t blk_size = 0;
  uint8_t physical_block_exp = 0;
  uint8_t alignment_offset = 0;
  uint16_t min_io_size = 0;
  uint32_t opt_io_size = 0;
  uint8_t writeback = 0;
  uint8_t unused0 = 0;
  uint16_t num_queues = 0;
  uint32_t max_discard_sectors = 0;
  uint32_t max_discard_seg = 0;
  uint32_t discard_sector_alignment = 0;
  uint32_t max_write_zeroes_sectors = 0;
  uint32_t max_write_zeroes_seg = 0;
  uint8_t write_zeroes_may_unmap = 0;
  uint8_t unused1[3] = {};
};
inline constexpr uint32_t kConfigBytes = 60;
static_assert(offsetof(Config, writeback) == 32 && offsetof(Config, num_queues) == 34);
static_assert(offsetof(Config, unused1) + 3 == kConfigBytes);

// §5.2.6: a request is this header, the data, and one status byte; how these are spread over
// descriptors is the driver's choice.
struct RequestHeader {
  uint32_t type = 0;
  uint32_t reserved = 0;
  uint64_t sector = 0;
};
static_assert(sizeof(RequestHeader) == 16);

enum class RequestType : uint32_t {
  In = 0,
  Out = 1,
  Flush = 4,
  GetId = 8,
  Discard = 11,
  WriteZeroes = 13,
};

enum class Status : uint8_t { Ok = 0, IoError = 1, Unsupported = 2 };

struct DiscardSegment {
  uint64_t sector = 0;
  uint32_t sectors = 0;
  uint32_t flags = 0;
};
static_assert(sizeof(DiscardSegment) == 16);
inline constexpr uint32_t kSegmentUnmap = 1;

inline constexpr size_t kIdBytes = 20;

}  // namespace trapeze::block
