// The PCI face of a virtio device: identity, BAR and capabilities. Private to virtio/transport.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/strong.h"
#include "bus/pci/config_space.h"
#include "virtio/device.h"

namespace trapeze::virtio_pci {

// With ports: the driver finds doorbells in kPortBar first. They are left out for a device with
// more queues than fit there.
enum class Doorbells : uint8_t { Memory, Ports };
PciDeviceConfig make_config(std::string name, const VirtioDevice& device, Doorbells doorbells);

// What an access to pci_cfg_data means (§4.1.4.9), by the copy of its capability that the guest has
// filled in; nothing when that makes no sense.
struct WindowTarget {
  uint64_t offset = 0;  // in kBar
  Width width = Width::Byte;
};
std::optional<WindowTarget> decode_window(std::span<const uint8_t> capability, unsigned offset,
                                          Width width);

}  // namespace trapeze::virtio_pci
