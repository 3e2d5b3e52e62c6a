// The layouts and numbers of virtio-balloon (virtio 1.2 §5.5). All integers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "virtio/features.h"

namespace trapeze::balloon {

// §5.5.2. The statistics and the reporting queue exist when their features are negotiated, and then
// in this order: drivers and devices number the queues that are there.
inline constexpr uint16_t kInflateQueue = 0;
inline constexpr uint16_t kDeflateQueue = 1;
inline constexpr uint16_t kFirstOptionalQueue = 2;

// §5.5.3.
inline constexpr uint64_t kFeatureStats = feature_bit(1);
inline constexpr uint64_t kFeatureDeflateOnOom = feature_bit(2);
inline constexpr uint64_t kFeaturePagePoison = feature_bit(4);
inline constexpr uint64_t kFeatureReporting = feature_bit(5);

// §5.5.6: whatever page size the guest has.
inline constexpr uint64_t kPageBytes = 4096;

// §5.5.4.
struct Config {
  uint32_t num_pages = 0;  // that the balloon should have
  uint32_t actual = 0;     // that it has, says the driver
  uint32_t free_page_hint_cmd_id = 0;
  uint32_t poison_val = 0;  // what free pages are filled with, says the driver
};
static_assert(sizeof(Config) == 16);

// §5.5.6.3.
enum class StatTag : uint16_t {
  SwapIn = 0,
  SwapOut = 1,
  MajorFaults = 2,
  MinorFaults = 3,
  FreeMemory = 4,
  TotalMemory = 5,
  AvailableMemory = 6,
  DiskCaches = 7,
  HugePagesAllocated = 8,
  HugePagesFailed = 9,
};
inline constexpr size_t kStatTags = 10;

struct [[gnu::packed]] Stat {
  uint16_t tag = 0;
  uint64_t value = 0;
};
static_assert(sizeof(Stat) == 10);

}  // namespace trapeze::balloon
