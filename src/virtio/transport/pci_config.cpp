#include "virtio/transport/pci_config.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "virtio/transport/pci_layout.h"

namespace trapeze::virtio_pci {
namespace {

constexpr uint16_t kVendorId = 0x1af4;
constexpr uint16_t kModernDeviceId = 0x1040;  // + device type (§4.1.2)

// struct virtio_pci_cap (§4.1.4)
constexpr size_t kCapBytes = 16;
constexpr size_t kCapBar = 4;
constexpr size_t kCapOffset = 8;
constexpr size_t kCapLength = 12;

// Base class and subclass tell people and tools what it is; drivers go by the device ID.
constexpr uint32_t class_code(VirtioType type) {
  switch (type) {
    case VirtioType::Net:
      return 0x020000;
    case VirtioType::Block:
      return 0x018000;
    case VirtioType::Console:
      return 0x078000;
    case VirtioType::FileSystem:
      return 0x018000;
    case VirtioType::Vsock:
      return 0x028000;
    case VirtioType::Balloon:
    case VirtioType::Pmem:
      return 0x058000;
    case VirtioType::Entropy:
    case VirtioType::Iommu:
      return 0xff0000;
  }
  return 0xff0000;
}

void put32(std::vector<uint8_t>& bytes, size_t offset, uint32_t value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

uint32_t get32(std::span<const uint8_t> bytes, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

PciCapability make_capability(CapType type, uint32_t offset, uint32_t length,
                              size_t extra_bytes = 0, unsigned bar = kBar) {
  PciCapability capability;
  capability.id = kPciCapVendorSpecific;
  capability.bytes.assign(kCapBytes + extra_bytes, 0);
  capability.bytes[2] = static_cast<uint8_t>(capability.bytes.size());
  capability.bytes[3] = static_cast<uint8_t>(type);
  capability.bytes[kCapBar] = static_cast<uint8_t>(bar);
  put32(capability.bytes, kCapOffset, offset);
  put32(capability.bytes, kCapLength, length);
  return capability;
}

PciCapability make_notify(unsigned bar, uint32_t offset, uint32_t queues) {
  auto notify = make_capability(CapType::Notify, offset, queues * kNotifyMultiplier, 4, bar);
  put32(notify.bytes, kCapBytes, kNotifyMultiplier);
  return notify;
}

}  // namespace

PciDeviceConfig make_config(std::string name, const VirtioDevice& device, Doorbells doorbells) {
  const auto queues = static_cast<uint32_t>(device.queue_max_sizes().size());
  CHECK(queues <= kPageBytes / kNotifyMultiplier && device.config_bytes() <= kPageBytes);
  const auto type = static_cast<uint16_t>(device.type());
  PciDeviceConfig config;
  config.name = std::move(name);
  config.vendor_id = kVendorId;
  config.device_id = static_cast<uint16_t>(kModernDeviceId + type);
  config.revision = 1;
  config.class_code = class_code(device.type());
  config.subsystem_vendor_id = kVendorId;
  config.subsystem_id = static_cast<uint16_t>(kModernDeviceId + type);
  // Below 4 GiB, so that 32-bit guests reach it too.
  config.bars[kBar] = {
      .kind = PciBarKind::Memory32, .prefetchable = false, .size_bytes = kBarBytes};
  config.has_intx = true;
  const uint32_t queue_vectors = device.has_one_interrupt() ? 1 : queues;
  config.msix = PciMsixConfig{
      .vectors = static_cast<uint16_t>(std::min(queue_vectors + 1, uint32_t{kMaxVectors})),
      .bar = kBar,
      .table_offset = kMsixTableOffset,
      .pending_offset = kMsixPendingOffset};
  config.capabilities.push_back(make_capability(CapType::Common, kCommonOffset, 56));
  config.capabilities.push_back(make_capability(CapType::Isr, kIsrOffset, kIsrBytes));
  if (device.config_bytes() > 0) {
    config.capabilities.push_back(
        make_capability(CapType::Device, kDeviceOffset, device.config_bytes()));
  }
  const uint64_t port_bytes =
      std::max(std::bit_ceil(uint64_t{queues} * kNotifyMultiplier), kMinPortBarBytes);
  if (doorbells == Doorbells::Ports && port_bytes <= kMaxPortBarBytes) {
    config.bars[kPortBar] = {
        .kind = PciBarKind::Io, .prefetchable = false, .size_bytes = port_bytes};
    // Drivers take the first one that they can use (§4.1.4.1).
    config.capabilities.push_back(make_notify(kPortBar, 0, queues));
  }
  config.capabilities.push_back(make_notify(kBar, kNotifyOffset, queues));

  auto window = make_capability(CapType::Pci, 0, 0, 4);
  window.write_mask.assign(kCapBytes, 0);
  window.write_mask[kCapBar] = 0xff;
  put32(window.write_mask, kCapOffset, 0xffff'ffff);
  put32(window.write_mask, kCapLength, 0xffff'ffff);
  window.window_offset = kCapBytes;
  window.window_bytes = 4;
  config.capabilities.push_back(std::move(window));
  return config;
}

std::optional<WindowTarget> decode_window(std::span<const uint8_t> capability, unsigned offset,
                                          Width width) {
  if (capability.size() < kCapBytes + 4 || capability[kCapBar] != kBar || offset != 0) {
    return std::nullopt;
  }
  const uint64_t start = get32(capability, kCapOffset);
  const uint32_t length = get32(capability, kCapLength);
  // The driver must set a length of 1, 2 or 4, a multiple of it as the offset, and access
  // pci_cfg_data with that width (§4.1.4.9.2).
  if ((length != 1 && length != 2 && length != 4) || start % length != 0) return std::nullopt;
  if (start + length > kBarBytes) return std::nullopt;
  return WindowTarget{start, static_cast<Width>(std::min<unsigned>(length, bytes_of(width)))};
}

}  // namespace trapeze::virtio_pci
