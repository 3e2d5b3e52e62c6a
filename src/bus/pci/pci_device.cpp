#include "bus/pci/pci_device.h"

#include <algorithm>
#include <vector>

namespace trapeze {

PciDevice::PciDevice(const PciDeviceConfig& config)
    : name_(config.name), msix_config_(config.msix), config_(config) {
  if (config.msix) msix_ = std::make_unique<Msix>(config.msix->vectors);
  for (unsigned i = 0; i < ports_.size(); ++i) {
    ports_[i].owner = this;
    ports_[i].index = i;
  }
}

void PciDevice::connect(InterruptSink& sink, IntxPin pin, Gsi gsi) {
  interrupts_ = &sink;
  if (msix_) msix_->connect(sink);
  const std::lock_guard lock(mutex_);
  pin_ = pin;
  // What firmware would leave there, for guests that do not read ACPI.
  constexpr unsigned kInterruptLine = 0x3c;
  constexpr unsigned kInterruptPin = 0x3d;
  if (config_.read(kInterruptPin, Width::Byte) != 0) {
    config_.write(kInterruptLine, Width::Byte, gsi.raw());
  }
  update_intx();
}

void PciDevice::disconnect() {
  const std::lock_guard lock(mutex_);
  pin_ = IntxPin();
}

uint32_t PciDevice::config_read(unsigned offset, Width width) {
  std::unique_lock lock(mutex_);
  const PciConfigSpace::Window* window = config_.window_at(offset);
  if (window == nullptr) return config_.read(offset, width);
  const auto bytes = config_.bytes().subspan(window->capability, window->capability_bytes);
  const std::vector<uint8_t> capability(bytes.begin(), bytes.end());
  const unsigned window_offset = offset - window->offset;
  lock.unlock();  // the device may do anything, also raise an interrupt
  return window_read(capability, window_offset, width);
}

bool PciDevice::config_write(unsigned offset, Width width, uint32_t value) {
  std::unique_lock lock(mutex_);
  if (const PciConfigSpace::Window* window = config_.window_at(offset)) {
    const auto bytes = config_.bytes().subspan(window->capability, window->capability_bytes);
    const std::vector<uint8_t> capability(bytes.begin(), bytes.end());
    const unsigned window_offset = offset - window->offset;
    lock.unlock();
    window_write(capability, window_offset, width, value);
    return false;
  }
  config_.write(offset, width, value);
  // INTx goes down before the first message can leave, and comes back after the last.
  update_intx();
  auto lent = Msix::Lent::Valid;
  if (msix_) lent = msix_->set_control(config_.msix_enabled(), config_.msix_function_masked());
  lock.unlock();
  if (lent == Msix::Lent::Recalled) msix_recalled();
  constexpr unsigned kCommand = 0x04;
  constexpr unsigned kBarsEnd = 0x28;
  return offset >= kCommand && offset < kBarsEnd;
}

std::optional<GpaRange> PciDevice::wanted_range(unsigned bar) const {
  const std::lock_guard lock(mutex_);
  const PciBarConfig& shape = config_.bar(bar);
  if (shape.kind == PciBarKind::None) return std::nullopt;
  const bool is_decoded =
      shape.kind == PciBarKind::Io ? config_.io_enabled() : config_.memory_enabled();
  if (!is_decoded) return std::nullopt;
  return GpaRange::create(Gpa{config_.bar_address(bar)}, shape.size_bytes);
}

uint64_t PciDevice::route_read(unsigned bar, uint64_t offset, Width width) {
  if (msix_ && bar == msix_config_->bar) {
    const uint64_t in_table = offset - msix_config_->table_offset;
    if (in_table < msix_->table_bytes()) return msix_->table_read(in_table, width);
    const uint64_t in_pending = offset - msix_config_->pending_offset;
    if (in_pending < msix_->pending_bytes()) return msix_->pending_read(in_pending, width);
  }
  return bar_read(bar, offset, width);
}

void PciDevice::route_write(unsigned bar, uint64_t offset, Width width, uint64_t value) {
  if (msix_ && bar == msix_config_->bar) {
    const uint64_t in_table = offset - msix_config_->table_offset;
    if (in_table < msix_->table_bytes()) {
      if (msix_->table_write(in_table, width, value) == Msix::Lent::Recalled) msix_recalled();
      return;
    }
    const uint64_t in_pending = offset - msix_config_->pending_offset;
    if (in_pending < msix_->pending_bytes()) return;  // read-only
  }
  bar_write(bar, offset, width, value);
}

void PciDevice::set_intx(bool asserted) {
  const std::lock_guard lock(mutex_);
  intx_asserted_ = asserted;
  update_intx();
}

// The status bit tells the level also while the pin is disabled (PCI 3.0 §6.2.3).
void PciDevice::update_intx() {
  const bool level = intx_asserted_ && !config_.msix_enabled();
  config_.set_interrupt_status(level);
  pin_.set(level && !config_.intx_disabled());
}

bool PciDevice::bus_master_enabled() const {
  const std::lock_guard lock(mutex_);
  return config_.bus_master_enabled();
}

PciDeviceState PciDevice::save() const {
  const std::lock_guard lock(mutex_);
  PciDeviceState state;
  state.config = config_.save();
  if (msix_) state.msix = msix_->save();
  state.intx_asserted = intx_asserted_;
  return state;
}

Result<void> PciDevice::restore(const PciDeviceState& state) {
  const std::lock_guard lock(mutex_);
  const auto own = config_.bytes().first(4);  // vendor and device id
  if (!std::ranges::equal(own, std::span(state.config).first(4))) {
    return fail("{}: the saved state is of another kind of PCI device", name_);
  }
  if (msix_) TRY(msix_->restore(state.msix));
  config_.restore(state.config);
  intx_asserted_ = state.intx_asserted;
  update_intx();
  if (msix_) msix_->set_control(config_.msix_enabled(), config_.msix_function_masked());
  return {};
}

}  // namespace trapeze
