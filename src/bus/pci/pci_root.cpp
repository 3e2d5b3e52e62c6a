#include "bus/pci/pci_root.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/units.h"

namespace trapeze {
namespace {

// Red Hat's generic PCIe host bridge: a class 06/00 function without resources or quirks, known to
// every kernel as just that.
class HostBridge final : public PciDevice {
 public:
  HostBridge()
      : PciDevice({.name = "PCI host bridge",
                   .vendor_id = 0x1b36,
                   .device_id = 0x0008,
                   .class_code = 0x060000,
                   .subsystem_vendor_id = 0x1af4,
                   .subsystem_id = 0x1100,
                   .msix = {},
                   .capabilities = {}}) {}
  uint64_t bar_read(unsigned, uint64_t, Width width) override { return all_ones(width); }
  void bar_write(unsigned, uint64_t, Width, uint64_t) override {}
};

// Ports from the end of the configuration ports on, as the firmware tables announce them.
constexpr GpaRange kIoPorts{Gpa{layout::kPciConfigData.raw() + 4},
                            0x10000 - (layout::kPciConfigData.raw() + 4)};

// Port 0xcf8 (PCI 3.0 §3.2.2.3.2): enable, bus 23:16, device 15:11, function 10:8, register 7:2.
constexpr uint32_t kConfigEnable = 1U << 31;
constexpr uint32_t kConfigAddressWritable = 0x80ff'fffc;

// On bus 0 and function 0, where our devices are.
bool names_function(uint32_t address) {
  return (address & kConfigEnable) != 0 && (address & 0x00ff'0700) == 0;
}
unsigned slot_of(uint32_t address) { return (address >> 11) & 31; }

Width half(Width width) { return width == Width::Qword ? Width::Dword : width; }

// Calls access(offset, width, shift) once when the access is naturally aligned, else for each byte.
template <typename Access>
void for_each_piece(unsigned offset, Width width, Access&& access) {
  const unsigned bytes = bytes_of(width);
  if (offset % bytes == 0) return access(offset, width, 0U);
  for (unsigned i = 0; i < bytes; ++i) access(offset + i, Width::Byte, 8 * i);
}

}  // namespace

PciRoot::PciRoot(const PciRootConfig& config, BoardBus& bus, InterruptSink& sink)
    : config_(config),
      bus_(bus),
      sink_(sink),
      intx_(sink),
      host_bridge_(std::make_unique<HostBridge>()),
      next32_(config.window32.start),
      next64_(config.window64.start),
      next_io_(config.first_io_port.raw()) {
  ecam_.root = this;
  ports_.root = this;
}

Result<std::unique_ptr<PciRoot>> PciRoot::create(const PciRootConfig& config, BoardBus& bus,
                                                 InterruptSink& sink) {
  std::unique_ptr<PciRoot> root(new PciRoot(config, bus, sink));
  TRY(bus.memory().attach(layout::kPciEcam, root->ecam_, "PCI ECAM"));
  TRY(bus.ports().attach(layout::kPciConfigAddress, 8, root->ports_, "PCI configuration ports"));
  TRY(root->add_at(0, *root->host_bridge_));
  return root;
}

PciRoot::~PciRoot() {
  for (PciDevice* device : devices_) {
    if (device == nullptr) continue;
    device->disconnect();
    for (PciDevice::BarPort& port : device->ports_) {
      if (port.placed) detach(device->config_.bar(port.index).kind, *port.placed);
    }
  }
  bus_.memory().detach(layout::kPciEcam.start.raw());
  bus_.ports().detach(layout::kPciConfigAddress.raw());
}

Result<unsigned> PciRoot::add(PciDevice& device) {
  for (unsigned slot = 1; slot < kSlots; ++slot) {
    if (devices_[slot] != nullptr) continue;
    TRY(add_at(slot, device));
    return slot;
  }
  return fail("no PCI slot is free for {}: a bus has {}", device.name(), kSlots);
}

Result<void> PciRoot::add_at(unsigned slot, PciDevice& device) {
  if (slot >= kSlots) return fail("{}: there is no PCI slot {}", device.name(), slot);
  if (devices_[slot] != nullptr) {
    return fail("{}: PCI slot {} holds {}", device.name(), slot, devices_[slot]->name());
  }
  TRY(assign_bars(device));
  device.connect(sink_, IntxPin(intx_, slot), pci_intx_gsi(slot, 0));
  devices_[slot] = &device;
  place_bars();
  return {};
}

Result<void> PciRoot::assign_bars(PciDevice& device) {
  const std::lock_guard lock(device.mutex_);
  bool has_bars = false;
  for (unsigned i = 0; i < device.ports_.size(); ++i) {
    const PciBarConfig& bar = device.config_.bar(i);
    if (bar.kind == PciBarKind::None) continue;
    device.config_.set_bar_address(i, TRY(allocate(device, bar)));
    has_bars = true;
  }
  if (has_bars) device.config_.enable_decoding();
  return {};
}

// Small BARs go below 4 GiB whatever their kind, where also guests without PAE reach them.
Result<uint64_t> PciRoot::allocate(const PciDevice& device, const PciBarConfig& bar) {
  constexpr uint64_t kSmall = 16 * MiB;
  const bool can_be_high = bar.kind == PciBarKind::Memory64;
  const auto take = [&bar](const GpaRange& window, Gpa& next) -> std::optional<uint64_t> {
    const Gpa start{align_up(next.raw(), bar.size_bytes)};
    if (start < next || !window.contains(start, bar.size_bytes)) return std::nullopt;
    next = start + bar.size_bytes;
    return start.raw();
  };
  if (bar.kind == PciBarKind::Io) {
    if (const auto port = take(kIoPorts, next_io_)) return *port;
    return fail("{}: no room for {} ports", device.name(), bar.size_bytes);
  }
  if (!can_be_high || bar.size_bytes <= kSmall) {
    if (const auto low = take(config_.window32, next32_)) return *low;
  }
  if (can_be_high) {
    if (const auto high = take(config_.window64, next64_)) return *high;
  }
  return fail("{}: no room for a BAR of {:#x} bytes in the PCI memory windows", device.name(),
              bar.size_bytes);
}

// Only inside the windows that the firmware tables announce, so that a guest cannot put a BAR over
// RAM or an interrupt controller.
bool PciRoot::may_decode(PciBarKind kind, const GpaRange& range) const {
  if (kind == PciBarKind::Io) return kIoPorts.contains(range.start, range.size);
  return config_.window32.contains(range.start, range.size) ||
         config_.window64.contains(range.start, range.size);
}

Result<void> PciRoot::attach(PciBarKind kind, const GpaRange& range, IoDevice& port,
                             std::string name) {
  if (kind != PciBarKind::Io) return bus_.memory().attach(range, port, std::move(name));
  return bus_.ports().attach(Port(static_cast<uint16_t>(range.start.raw())),
                             static_cast<uint32_t>(range.size), port, std::move(name));
}

void PciRoot::detach(PciBarKind kind, Gpa start) {
  if (kind == PciBarKind::Io) {
    bus_.ports().detach(start.raw());
  } else {
    bus_.memory().detach(start.raw());
  }
}

// While a guest reassigns BARs, two may want the same place for a moment: the one that has it keeps
// it, the other gets it as soon as it is free.
void PciRoot::place_bars() {
  const std::lock_guard lock(place_mutex_);
  const auto for_each_bar = [this](auto&& action) {
    for (PciDevice* device : devices_) {
      if (device == nullptr) continue;
      for (PciDevice::BarPort& port : device->ports_) {
        const PciBarKind kind = device->config_.bar(port.index).kind;
        std::optional<GpaRange> wanted = device->wanted_range(port.index);
        if (wanted && !may_decode(kind, *wanted)) wanted.reset();
        action(*device, port, kind, wanted);
      }
    }
  };
  for_each_bar(
      [this](PciDevice& device, PciDevice::BarPort& port, PciBarKind kind, const auto& wanted) {
        if (!port.placed || (wanted && wanted->start == *port.placed)) return;
        detach(kind, *port.placed);
        port.placed.reset();
        device.bar_placed(port.index, std::nullopt);
      });
  for_each_bar(
      [this](PciDevice& device, PciDevice::BarPort& port, PciBarKind kind, const auto& wanted) {
        if (port.placed || !wanted) return;
        auto name = fmt::format("{} BAR {}", device.name(), port.index);
        if (!attach(kind, *wanted, port, std::move(name))) return;
        port.placed = wanted->start;
        device.bar_placed(port.index, wanted->start);
      });
}

PciRootState PciRoot::save() const {
  return {.config_address = config_address_.load(std::memory_order_relaxed)};
}

void PciRoot::restore(const PciRootState& state) {
  config_address_.store(state.config_address & kConfigAddressWritable, std::memory_order_relaxed);
}

uint32_t PciRoot::config_read(unsigned slot, unsigned offset, Width width) {
  PciDevice* device = slot < kSlots ? devices_[slot] : nullptr;
  if (device == nullptr) return static_cast<uint32_t>(all_ones(width));
  DCHECK(width != Width::Qword);
  uint32_t value = 0;
  for_each_piece(offset, width, [&](unsigned at, Width piece, unsigned shift) {
    value |= device->config_read(at, piece) << shift;
  });
  return value;
}

void PciRoot::config_write(unsigned slot, unsigned offset, Width width, uint32_t value) {
  PciDevice* device = slot < kSlots ? devices_[slot] : nullptr;
  if (device == nullptr) return;
  DCHECK(width != Width::Qword);
  bool bars_changed = false;
  for_each_piece(offset, width, [&](unsigned at, Width piece, unsigned shift) {
    const auto part = static_cast<uint32_t>((value >> shift) & all_ones(piece));
    bars_changed |= device->config_write(at, piece, part);
  });
  if (bars_changed) place_bars();
}

// ECAM: bus in bits 27:20, device in 19:15, function in 14:12 (PCIe 5.0 table 7-1).
uint64_t PciRoot::Ecam::read(uint64_t offset, Width width) {
  if ((offset >> 20) != 0 || ((offset >> 12) & 7) != 0) return all_ones(width);
  const auto slot = static_cast<unsigned>(offset >> 15);
  const auto in_function = static_cast<unsigned>(offset & 0xfff);
  const uint64_t low = root->config_read(slot, in_function, half(width));
  if (width != Width::Qword) return low;
  return low | (uint64_t{root->config_read(slot, in_function + 4, half(width))} << 32);
}

void PciRoot::Ecam::write(uint64_t offset, Width width, uint64_t value) {
  if ((offset >> 20) != 0 || ((offset >> 12) & 7) != 0) return;
  const auto slot = static_cast<unsigned>(offset >> 15);
  const auto in_function = static_cast<unsigned>(offset & 0xfff);
  root->config_write(slot, in_function, half(width), static_cast<uint32_t>(value));
  if (width != Width::Qword) return;
  root->config_write(slot, in_function + 4, half(width), static_cast<uint32_t>(value >> 32));
}

// Offset 0: the address register, which answers to dwords only; a byte at offset 1 is port 0xcf9,
// the reset register. Offset 4: the data window.
uint64_t PciRoot::ConfigPorts::read(uint64_t offset, Width width) {
  const uint32_t address = root->config_address_.load(std::memory_order_relaxed);
  if (offset == 0 && width == Width::Dword) return address;
  if (offset == 1 && width == Width::Byte && root->config_.reset_port != nullptr) {
    return root->config_.reset_port->read(0, width);
  }
  if (offset < 4 || !names_function(address)) return all_ones(width);
  return root->config_read(slot_of(address), (address & 0xfc) + static_cast<unsigned>(offset - 4),
                           width);
}

void PciRoot::ConfigPorts::write(uint64_t offset, Width width, uint64_t value) {
  if (offset == 0 && width == Width::Dword) {
    root->config_address_.store(static_cast<uint32_t>(value) & kConfigAddressWritable,
                                std::memory_order_relaxed);
    return;
  }
  if (offset == 1 && width == Width::Byte && root->config_.reset_port != nullptr) {
    root->config_.reset_port->write(0, width, value);
    return;
  }
  const uint32_t address = root->config_address_.load(std::memory_order_relaxed);
  if (offset < 4 || !names_function(address)) return;
  root->config_write(slot_of(address), (address & 0xfc) + static_cast<unsigned>(offset - 4), width,
                     static_cast<uint32_t>(value));
}

}  // namespace trapeze
