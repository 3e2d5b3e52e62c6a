// Type 0 configuration space of one function (PCI 3.0 §6.1): identity, command and status, BARs
// with sizing, the capability list. Plain data without a lock; PciDevice guards it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/strong.h"
#include "memory/guest_addr.h"

namespace trapeze {

enum class PciBarKind : uint8_t { None, Memory32, Memory64, Io };

// A Memory64 BAR takes two entries: the next one must be None.
struct PciBarConfig {
  PciBarKind kind = PciBarKind::None;
  bool prefetchable = false;
  uint64_t size_bytes = 0;  // a power of two, at least 16; at most 256 ports
};

// Offsets in a capability count from its id byte, as the specifications do; so `bytes` begins with
// two placeholders for id and next pointer.
struct PciCapability {
  uint8_t id = 0;
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> write_mask;  // bits the guest may write; missing bytes are read-only
  // Reads and writes of [window_offset, +window_bytes) go to PciDevice::window_read and _write (for
  // virtio's pci_cfg_data). Both are multiples of 4; no window when window_bytes is 0.
  uint8_t window_offset = 0;
  uint8_t window_bytes = 0;
};

inline constexpr uint8_t kPciCapVendorSpecific = 0x09;
inline constexpr uint8_t kPciCapMsix = 0x11;

// Where the MSI-X table and pending bits lie. The ranges must not hold anything else.
struct PciMsixConfig {
  uint16_t vectors = 1;
  uint8_t bar = 0;
  uint32_t table_offset = 0;    // a multiple of 8; 16 bytes a vector
  uint32_t pending_offset = 0;  // a multiple of 8; one bit a vector, in units of 8 bytes
};

struct PciDeviceConfig {
  std::string name;  // for messages
  uint16_t vendor_id = 0;
  uint16_t device_id = 0;
  uint8_t revision = 0;
  uint32_t class_code = 0;  // base class, subclass, programming interface: 0x020000 is Ethernet
  uint16_t subsystem_vendor_id = 0;
  uint16_t subsystem_id = 0;
  std::array<PciBarConfig, 6> bars{};
  std::optional<PciMsixConfig> msix;
  std::vector<PciCapability> capabilities;  // in this order, after MSI-X
  bool has_intx = false;                    // pin INTA#
};

class PciConfigSpace {
 public:
  static constexpr size_t kBytes = 256;
  using Bytes = std::array<uint8_t, kBytes>;

  // CHECKs that the configuration is sound: it comes from our own devices.
  explicit PciConfigSpace(const PciDeviceConfig& config);

  // Naturally aligned, 1 to 4 bytes; offsets from 256 on (extended space) read 0.
  uint32_t read(unsigned offset, Width width) const;
  void write(unsigned offset, Width width, uint32_t value);

  // Command register.
  bool memory_enabled() const;
  bool io_enabled() const;
  bool bus_master_enabled() const;
  bool intx_disabled() const;
  // Memory and I/O space, as far as there are such BARs.
  void enable_decoding();
  // Status register bit 3, "Interrupt Status".
  void set_interrupt_status(bool asserted);

  const PciBarConfig& bar(unsigned index) const { return bars_[index]; }
  uint64_t bar_address(unsigned index) const;
  void set_bar_address(unsigned index, uint64_t address);

  // Message Control of the MSI-X capability.
  bool msix_enabled() const;
  bool msix_function_masked() const;

  // The capability with a window that holds `offset`.
  struct Window {
    unsigned capability = 0;  // offset of its id byte in configuration space
    unsigned capability_bytes = 0;
    unsigned offset = 0;  // of the window in configuration space
    unsigned bytes = 0;
  };
  const Window* window_at(unsigned offset) const;
  std::span<const uint8_t> bytes() const { return bytes_; }

  // Everything the guest can change.
  Bytes save() const { return bytes_; }
  // Takes the writable bits of `saved`; the rest describes the device and stays.
  void restore(const Bytes& saved);

 private:
  void set(unsigned offset, Width width, uint32_t value, uint32_t writable = 0);
  void add_bar(unsigned index, const PciBarConfig& bar);
  void add_capability(const PciCapability& capability);
  void add_msix(const PciMsixConfig& msix);

  Bytes bytes_{};
  Bytes write_mask_{};
  std::array<PciBarConfig, 6> bars_{};
  std::vector<Window> windows_;
  unsigned next_capability_ = 0x40;  // behind the header
  unsigned last_next_pointer_;       // where the next capability's offset goes
  unsigned msix_capability_ = 0;     // 0: none
};

}  // namespace trapeze
