// Where things lie in the BAR of a virtio-pci device, and the registers of the common
// configuration (virtio 1.2 §4.1.4).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace trapeze::virtio_pci {

inline constexpr unsigned kBar = 0;
inline constexpr uint64_t kBarBytes = 32 * KiB;
// Doorbells at ports, where guests prefer them: laid out as those in kBar.
inline constexpr unsigned kPortBar = 2;
inline constexpr uint64_t kMinPortBarBytes = 16;
inline constexpr uint64_t kMaxPortBarBytes = 256;

// One page each, so that a guest can map them apart and a hypervisor can trap them apart.
inline constexpr uint32_t kCommonOffset = 0x0000;
inline constexpr uint32_t kIsrOffset = 0x1000;
inline constexpr uint32_t kDeviceOffset = 0x2000;
inline constexpr uint32_t kNotifyOffset = 0x3000;
inline constexpr uint32_t kMsixTableOffset = 0x4000;
inline constexpr uint32_t kMsixPendingOffset = 0x5000;
inline constexpr uint32_t kPageBytes = 0x1000;
inline constexpr uint32_t kIsrBytes = 1;
inline constexpr uint32_t kNotifyMultiplier = 4;  // bytes; one doorbell address for each queue

// So many entries fit into the table's page; a device with more queues shares vectors.
inline constexpr uint16_t kMaxVectors = 256;
inline constexpr uint16_t kNoVector = 0xffff;  // VIRTIO_MSI_NO_VECTOR

// §4.1.4: cfg_type
enum class CapType : uint8_t { Common = 1, Notify = 2, Isr = 3, Device = 4, Pci = 5 };

// §4.1.4.5
inline constexpr uint8_t kIsrQueue = 1;
inline constexpr uint8_t kIsrConfig = 2;

// §4.1.4.3
struct CommonConfig {
  uint32_t device_feature_select;
  uint32_t device_feature;
  uint32_t driver_feature_select;
  uint32_t driver_feature;
  uint16_t config_msix_vector;
  uint16_t num_queues;
  uint8_t device_status;
  uint8_t config_generation;
  uint16_t queue_select;
  uint16_t queue_size;
  uint16_t queue_msix_vector;
  uint16_t queue_enable;
  uint16_t queue_notify_off;
  uint32_t queue_desc_lo;
  uint32_t queue_desc_hi;
  uint32_t queue_driver_lo;
  uint32_t queue_driver_hi;
  uint32_t queue_device_lo;
  uint32_t queue_device_hi;
};
static_assert(sizeof(CommonConfig) == 56);
static_assert(offsetof(CommonConfig, device_status) == 20);
static_assert(offsetof(CommonConfig, queue_desc_lo) == 32);

}  // namespace trapeze::virtio_pci
