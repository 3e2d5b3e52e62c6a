#include "bus/pci/config_space.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/units.h"
#include "bus/pci/msix.h"

namespace trapeze {
namespace {

// Type 0 header (PCI 3.0 §6.1, figure 6-1).
constexpr unsigned kVendorId = 0x00;
constexpr unsigned kDeviceId = 0x02;
constexpr unsigned kCommand = 0x04;
constexpr unsigned kStatus = 0x06;
constexpr unsigned kRevision = 0x08;
constexpr unsigned kClassCode = 0x09;
constexpr unsigned kCacheLineSize = 0x0c;
constexpr unsigned kBar0 = 0x10;
constexpr unsigned kSubsystemVendorId = 0x2c;
constexpr unsigned kSubsystemId = 0x2e;
constexpr unsigned kCapabilityPointer = 0x34;
constexpr unsigned kInterruptLine = 0x3c;
constexpr unsigned kInterruptPin = 0x3d;

constexpr uint16_t kCommandIo = 1U << 0;
constexpr uint16_t kCommandMemory = 1U << 1;
constexpr uint16_t kCommandBusMaster = 1U << 2;
constexpr uint16_t kCommandParity = 1U << 6;
constexpr uint16_t kCommandSerr = 1U << 8;
constexpr uint16_t kCommandIntxDisable = 1U << 10;
constexpr uint16_t kCommandWritable =
    kCommandMemory | kCommandBusMaster | kCommandParity | kCommandSerr | kCommandIntxDisable;

constexpr uint16_t kStatusInterrupt = 1U << 3;
constexpr uint16_t kStatusCapabilities = 1U << 4;

constexpr uint32_t kBarType64 = 0x4;
constexpr uint32_t kBarPrefetchable = 0x8;
constexpr uint32_t kBarFlagBits = 0xf;
constexpr uint32_t kBarIo = 0x1;
constexpr uint64_t kMaxIoBarBytes = 256;  // PCI 3.0 §6.2.5.1

constexpr uint16_t kMsixEnable = 1U << 15;
constexpr uint16_t kMsixFunctionMask = 1U << 14;

uint32_t load(std::span<const uint8_t> bytes, unsigned offset, unsigned count) {
  CHECK(offset + count <= bytes.size() && count <= 4);
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, count);
  return value;
}

}  // namespace

PciConfigSpace::PciConfigSpace(const PciDeviceConfig& config)
    : last_next_pointer_(kCapabilityPointer) {
  set(kVendorId, Width::Word, config.vendor_id);
  set(kDeviceId, Width::Word, config.device_id);
  set(kCommand, Width::Word, 0, kCommandWritable);
  set(kRevision, Width::Byte, config.revision);
  set(kClassCode, Width::Byte, config.class_code & 0xff);
  set(kClassCode + 1, Width::Word, config.class_code >> 8);
  set(kCacheLineSize, Width::Byte, 0, 0xff);
  set(kSubsystemVendorId, Width::Word, config.subsystem_vendor_id);
  set(kSubsystemId, Width::Word, config.subsystem_id);
  set(kInterruptLine, Width::Byte, 0, 0xff);
  set(kInterruptPin, Width::Byte, config.has_intx ? 1 : 0);
  for (unsigned i = 0; i < config.bars.size(); ++i) add_bar(i, config.bars[i]);
  if (config.msix) add_msix(*config.msix);
  for (const PciCapability& capability : config.capabilities) add_capability(capability);
}

void PciConfigSpace::set(unsigned offset, Width width, uint32_t value, uint32_t writable) {
  CHECK(offset + bytes_of(width) <= kBytes && bytes_of(width) <= 4);
  std::memcpy(bytes_.data() + offset, &value, bytes_of(width));
  std::memcpy(write_mask_.data() + offset, &writable, bytes_of(width));
}

// The bits below the size are read-only zeros, and that is all that sizing is: the guest writes
// ones and sees which stick (PCI 3.0 §6.2.5.1).
void PciConfigSpace::add_bar(unsigned index, const PciBarConfig& bar) {
  if (bar.kind == PciBarKind::None) return;
  CHECK(bars_[index].kind == PciBarKind::None && std::has_single_bit(bar.size_bytes));
  CHECK(bar.size_bytes >= 16);
  CHECK(bar.kind == PciBarKind::Memory64 || bar.size_bytes <= 2 * GiB);
  const uint64_t writable = ~(bar.size_bytes - 1);
  if (bar.kind == PciBarKind::Io) {
    CHECK(bar.size_bytes <= kMaxIoBarBytes && !bar.prefetchable);
    // The upper half is not there: x86 has 16 bits of ports.
    set(kBar0 + 4 * index, Width::Dword, kBarIo, static_cast<uint32_t>(writable) & 0xffff);
    set(kCommand, Width::Word, 0, kCommandWritable | kCommandIo);
    bars_[index] = bar;
    return;
  }
  uint32_t flags = bar.prefetchable ? kBarPrefetchable : 0;
  if (bar.kind == PciBarKind::Memory64) {
    CHECK(index + 1 < bars_.size());
    flags |= kBarType64;
    set(kBar0 + 4 * (index + 1), Width::Dword, 0, static_cast<uint32_t>(writable >> 32));
  }
  set(kBar0 + 4 * index, Width::Dword, flags, static_cast<uint32_t>(writable) & ~kBarFlagBits);
  bars_[index] = bar;
}

void PciConfigSpace::add_capability(const PciCapability& capability) {
  const auto& bytes = capability.bytes;
  CHECK(bytes.size() >= 2 && capability.write_mask.size() <= bytes.size());
  CHECK(next_capability_ + bytes.size() <= kBytes);
  const unsigned at = next_capability_;
  for (unsigned i = 2; i < bytes.size(); ++i) {
    bytes_[at + i] = bytes[i];
    write_mask_[at + i] = i < capability.write_mask.size() ? capability.write_mask[i] : 0;
  }
  bytes_[at] = capability.id;
  bytes_[at + 1] = 0;
  bytes_[last_next_pointer_] = static_cast<uint8_t>(at);
  last_next_pointer_ = at + 1;
  set(kStatus, Width::Word, kStatusCapabilities);
  if (capability.window_bytes != 0) {
    CHECK(capability.window_offset % 4 == 0 && capability.window_bytes % 4 == 0);
    CHECK(capability.window_offset + capability.window_bytes <= bytes.size());
    windows_.push_back({.capability = at,
                        .capability_bytes = static_cast<unsigned>(bytes.size()),
                        .offset = at + capability.window_offset,
                        .bytes = capability.window_bytes});
  }
  next_capability_ = static_cast<unsigned>(align_up(at + bytes.size(), 4));
}

// PCI 3.0 §6.8.2: Message Control, then table and pending-bit offsets with the BAR number in the
// three low bits.
void PciConfigSpace::add_msix(const PciMsixConfig& msix) {
  CHECK(msix.vectors >= 1 && msix.vectors <= Msix::kMaxVectors && msix.bar < bars_.size());
  CHECK(msix.table_offset % 8 == 0 && msix.pending_offset % 8 == 0);
  const uint64_t table_end = msix.table_offset + msix.vectors * Msix::kEntryBytes;
  const uint64_t pending_end = msix.pending_offset + (msix.vectors + 63U) / 64 * 8;
  CHECK(table_end <= bars_[msix.bar].size_bytes && pending_end <= bars_[msix.bar].size_bytes);
  CHECK(table_end <= msix.pending_offset || pending_end <= msix.table_offset);
  msix_capability_ = next_capability_;
  add_capability({.id = kPciCapMsix, .bytes = std::vector<uint8_t>(12), .write_mask = {}});
  set(msix_capability_ + 2, Width::Word, msix.vectors - 1U, kMsixEnable | kMsixFunctionMask);
  set(msix_capability_ + 4, Width::Dword, msix.table_offset | msix.bar);
  set(msix_capability_ + 8, Width::Dword, msix.pending_offset | msix.bar);
}

uint32_t PciConfigSpace::read(unsigned offset, Width width) const {
  if (offset + bytes_of(width) > kBytes) return 0;
  return load(bytes_, offset, bytes_of(width));
}

void PciConfigSpace::write(unsigned offset, Width width, uint32_t value) {
  for (unsigned i = 0; i < bytes_of(width) && offset + i < kBytes; ++i) {
    const uint8_t mask = write_mask_[offset + i];
    const auto byte = static_cast<uint8_t>(value >> (8 * i));
    bytes_[offset + i] = static_cast<uint8_t>((bytes_[offset + i] & ~mask) | (byte & mask));
  }
}

bool PciConfigSpace::memory_enabled() const {
  return (read(kCommand, Width::Word) & kCommandMemory) != 0;
}
bool PciConfigSpace::bus_master_enabled() const {
  return (read(kCommand, Width::Word) & kCommandBusMaster) != 0;
}
bool PciConfigSpace::intx_disabled() const {
  return (read(kCommand, Width::Word) & kCommandIntxDisable) != 0;
}
bool PciConfigSpace::io_enabled() const { return (read(kCommand, Width::Word) & kCommandIo) != 0; }
void PciConfigSpace::enable_decoding() {
  write(kCommand, Width::Word, read(kCommand, Width::Word) | kCommandMemory | kCommandIo);
}
void PciConfigSpace::set_interrupt_status(bool asserted) {
  const uint32_t status = read(kStatus, Width::Word) & ~uint32_t{kStatusInterrupt};
  set(kStatus, Width::Word, asserted ? status | kStatusInterrupt : status);
}

uint64_t PciConfigSpace::bar_address(unsigned index) const {
  const unsigned at = kBar0 + 4 * index;
  uint64_t address = read(at, Width::Dword) & ~kBarFlagBits;
  if (bars_[index].kind == PciBarKind::Memory64) {
    address |= uint64_t{read(at + 4, Width::Dword)} << 32;
  }
  return address;
}

void PciConfigSpace::set_bar_address(unsigned index, uint64_t address) {
  const unsigned at = kBar0 + 4 * index;
  write(at, Width::Dword, static_cast<uint32_t>(address));
  if (bars_[index].kind == PciBarKind::Memory64) {
    write(at + 4, Width::Dword, static_cast<uint32_t>(address >> 32));
  }
}

bool PciConfigSpace::msix_enabled() const {
  return msix_capability_ != 0 && (read(msix_capability_ + 2, Width::Word) & kMsixEnable) != 0;
}
bool PciConfigSpace::msix_function_masked() const {
  return msix_capability_ != 0 &&
         (read(msix_capability_ + 2, Width::Word) & kMsixFunctionMask) != 0;
}

const PciConfigSpace::Window* PciConfigSpace::window_at(unsigned offset) const {
  for (const Window& window : windows_) {
    if (offset >= window.offset && offset - window.offset < window.bytes) return &window;
  }
  return nullptr;
}

void PciConfigSpace::restore(const Bytes& saved) {
  for (unsigned i = 0; i < kBytes; ++i) {
    bytes_[i] = static_cast<uint8_t>((bytes_[i] & ~write_mask_[i]) | (saved[i] & write_mask_[i]));
  }
}

}  // namespace trapeze
