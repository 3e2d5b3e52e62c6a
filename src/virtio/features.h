// Numbers of virtio 1.2 that every device and transport shares.
#pragma once

#include <cstdint>

namespace trapeze {

// §5: device types.
enum class VirtioType : uint16_t {
  Net = 1,
  Block = 2,
  Console = 3,
  Entropy = 4,
  Balloon = 5,
  Vsock = 19,
  Iommu = 23,
  FileSystem = 26,
  Pmem = 27,
};

constexpr uint64_t feature_bit(unsigned bit) { return uint64_t{1} << bit; }

// §6: features of queues and transports. The transport offers these; a device only its own.
inline constexpr uint64_t kFeatureIndirectDesc = feature_bit(28);
inline constexpr uint64_t kFeatureEventIdx = feature_bit(29);
inline constexpr uint64_t kFeatureVersion1 = feature_bit(32);
inline constexpr uint64_t kTransportFeatures =
    kFeatureIndirectDesc | kFeatureEventIdx | kFeatureVersion1;

// §2.1: device status.
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

}  // namespace trapeze
