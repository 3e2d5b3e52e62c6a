#include "virtio/transport/pci.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace trapeze {

using virtio_pci::CommonConfig;
using virtio_pci::kNoVector;

namespace {

constexpr uint32_t half(uint64_t value, uint32_t select) {
  return select > 1 ? 0 : static_cast<uint32_t>(value >> (32 * select));
}

// `value` with its low or high 32 bits, or all of it, replaced.
constexpr uint64_t with_part(uint64_t value, bool is_high, Width width, uint64_t part) {
  if (width == Width::Qword) return part;
  const uint64_t low = is_high ? value & 0xffff'ffff : part & 0xffff'ffff;
  const uint64_t high = is_high ? part << 32 : value & 0xffff'ffff'0000'0000;
  return high | low;
}

// [offset, offset + width) as a place in a region of `bytes` at `start`.
constexpr bool is_in(uint64_t offset, uint64_t start, uint64_t bytes) {
  return offset >= start && offset - start < bytes;
}

}  // namespace

VirtioPci::VirtioPci(const PciDeviceConfig& config, VirtioDevice& device)
    : PciDevice(config),
      device_(device),
      has_port_doorbells_(config.bars[virtio_pci::kPortBar].kind != PciBarKind::None) {
  const auto max_sizes = device.queue_max_sizes();
  queue_vectors_ = std::make_unique<std::atomic<uint16_t>[]>(max_sizes.size());
  for (size_t i = 0; i < max_sizes.size(); ++i) {
    queue_vectors_[i].store(kNoVector, std::memory_order_relaxed);
    Queue queue;
    queue.config.size = queue.max_size = max_sizes[i];
    queues_.push_back(queue);
  }
}

Result<std::unique_ptr<VirtioPci>> VirtioPci::create(std::string name, VirtioDevice& device,
                                                     GuestMemory& memory, EventLoop& loop,
                                                     Doorbells doorbells) {
  const PciDeviceConfig config = virtio_pci::make_config(std::move(name), device, doorbells);
  auto transport = std::unique_ptr<VirtioPci>(new VirtioPci(config, device));
  transport->host_ = TRY(DeviceHost::create(device, memory, loop, *transport));
  return transport;
}

Result<std::unique_ptr<VirtioPci>> VirtioPci::create_in(PciRoot& root, std::string name,
                                                        VirtioDevice& device, GuestMemory& memory,
                                                        EventLoop& loop) {
  const auto doorbells =
      root.interrupts().prefers_port_doorbells() ? Doorbells::Ports : Doorbells::Memory;
  auto transport = TRY(create(std::move(name), device, memory, loop, doorbells));
  TRY(root.add(*transport));
  return transport;
}

VirtioPci::~VirtioPci() {
  host_.reset();  // first: until then the device's thread may interrupt
}

uint64_t VirtioPci::bar_read(unsigned bar, uint64_t offset, Width width) {
  if (bar != virtio_pci::kBar) return all_ones(width);
  if (is_in(offset, virtio_pci::kCommonOffset, sizeof(CommonConfig))) {
    return read_common(offset - virtio_pci::kCommonOffset, width);
  }
  if (offset == virtio_pci::kIsrOffset) return read_isr();
  if (is_in(offset, virtio_pci::kDeviceOffset, device_.config_bytes())) {
    return read_device(offset - virtio_pci::kDeviceOffset, width);
  }
  return 0;
}

void VirtioPci::bar_write(unsigned bar, uint64_t offset, Width width, uint64_t value) {
  if (bar == virtio_pci::kPortBar) return ring(offset);
  if (bar != virtio_pci::kBar) return;
  if (is_in(offset, virtio_pci::kNotifyOffset, virtio_pci::kPageBytes)) {
    return ring(offset - virtio_pci::kNotifyOffset);
  }
  if (is_in(offset, virtio_pci::kCommonOffset, sizeof(CommonConfig))) {
    write_common(offset - virtio_pci::kCommonOffset, width, value & all_ones(width));
  } else if (is_in(offset, virtio_pci::kDeviceOffset, device_.config_bytes())) {
    write_device(offset - virtio_pci::kDeviceOffset, width, value);
  }
}

// HOT. The value repeats the queue's number; the address says it already.
void VirtioPci::ring(uint64_t offset) {
  const uint64_t queue = offset / virtio_pci::kNotifyMultiplier;
  if (has_status(kStatusDriverOk)) host_->ring(static_cast<uint16_t>(queue));
}

// A kick before DRIVER_OK then adds to an eventfd that nobody watches; the device finds it when it
// starts, and looks at the ring, as after any kick that says nothing new. Doorbells at both places
// are bound at one of them: the other's writes come to bar_write().
void VirtioPci::bar_placed(unsigned bar, std::optional<Gpa> address) {
  const unsigned doorbell_bar = has_port_doorbells_ ? virtio_pci::kPortBar : virtio_pci::kBar;
  if (bar != doorbell_bar || interrupts() == nullptr) return;
  for (uint16_t queue = 0; bound_at_ && queue < queue_count(); ++queue) {
    if (host_->needs_ring(queue)) continue;
    interrupts()->unbind_doorbell(doorbell_place(*bound_at_, queue), doorbell(queue));
  }
  bound_at_ = address;
  for (uint16_t queue = 0; bound_at_ && queue < queue_count(); ++queue) {
    if (host_->needs_ring(queue)) continue;
    interrupts()->bind_doorbell(doorbell_place(*bound_at_, queue), doorbell(queue));
  }
}

DoorbellPlace VirtioPci::doorbell_place(Gpa bar, uint16_t queue) const {
  const uint64_t at_memory = bar.raw() + doorbell_offset(queue);
  if (!has_port_doorbells_) return {DoorbellPlace::Space::Memory, at_memory};
  return {DoorbellPlace::Space::Ports, at_memory - virtio_pci::kNotifyOffset};
}

// Common configuration ----------------------------------------------------------------------------

// A read has no side effects, so any part of the structure can be read with any width.
uint64_t VirtioPci::read_common(uint64_t offset, Width width) {
  CommonConfig view{};
  {
    const std::lock_guard lock(mutex_);
    view.device_feature_select = device_feature_select_;
    view.device_feature = half(offered_features(), device_feature_select_);
    view.driver_feature_select = driver_feature_select_;
    view.driver_feature = half(driver_features_, driver_feature_select_);
    view.config_msix_vector = config_vector_.load(std::memory_order_relaxed);
    view.num_queues = static_cast<uint16_t>(queues_.size());
    view.device_status = status_.load(std::memory_order_acquire);
    view.config_generation = config_generation_.load(std::memory_order_acquire);
    view.queue_select = queue_select_;
    if (queue_select_ < queues_.size()) {
      const Queue& queue = queues_[queue_select_];
      view.queue_size = queue.config.size;
      view.queue_msix_vector = queue_vectors_[queue_select_].load(std::memory_order_relaxed);
      view.queue_enable = queue.enabled ? 1 : 0;
      view.queue_notify_off = queue_select_;
      view.queue_desc_lo = half(queue.config.desc.raw(), 0);
      view.queue_desc_hi = half(queue.config.desc.raw(), 1);
      view.queue_driver_lo = half(queue.config.avail.raw(), 0);
      view.queue_driver_hi = half(queue.config.avail.raw(), 1);
      view.queue_device_lo = half(queue.config.used.raw(), 0);
      view.queue_device_hi = half(queue.config.used.raw(), 1);
    }
  }
  uint64_t value = 0;
  std::memcpy(&value, reinterpret_cast<const std::byte*>(&view) + offset,
              std::min<uint64_t>(bytes_of(width), sizeof(view) - offset));
  return value;
}

void VirtioPci::write_common(uint64_t offset, Width width, uint64_t value) {
  const std::lock_guard lock(mutex_);
  if (offset >= offsetof(CommonConfig, queue_desc_lo)) {
    write_queue_address(offset, width, value);
  } else if (offset >= offsetof(CommonConfig, queue_size)) {
    write_queue(offset, width, value);
  } else {
    write_control(offset, width, value);
  }
}

// Writes with another width than the field's are not allowed (§4.1.3.1) and change nothing.
void VirtioPci::write_control(uint64_t offset, Width width, uint64_t value) {
  const auto is_field = [&](size_t field, Width field_width) {
    return offset == field && width == field_width;
  };
  if (is_field(offsetof(CommonConfig, device_feature_select), Width::Dword)) {
    device_feature_select_ = static_cast<uint32_t>(value);
  } else if (is_field(offsetof(CommonConfig, driver_feature_select), Width::Dword)) {
    driver_feature_select_ = static_cast<uint32_t>(value);
  } else if (is_field(offsetof(CommonConfig, driver_feature), Width::Dword)) {
    if (driver_feature_select_ > 1 || has_status(kStatusFeaturesOk)) return;
    driver_features_ =
        with_part(driver_features_, driver_feature_select_ == 1, Width::Dword, value);
  } else if (is_field(offsetof(CommonConfig, config_msix_vector), Width::Word)) {
    config_vector_.store(checked_vector(value), std::memory_order_relaxed);
  } else if (is_field(offsetof(CommonConfig, device_status), Width::Byte)) {
    write_status(static_cast<uint8_t>(value));
  } else if (is_field(offsetof(CommonConfig, queue_select), Width::Word)) {
    queue_select_ = static_cast<uint16_t>(value);
  }
}

void VirtioPci::write_queue(uint64_t offset, Width width, uint64_t value) {
  if (queue_select_ >= queues_.size() || width != Width::Word) return;
  Queue& queue = queues_[queue_select_];
  if (offset == offsetof(CommonConfig, queue_msix_vector)) {
    queue_vectors_[queue_select_].store(checked_vector(value), std::memory_order_relaxed);
    if (has_status(kStatusDriverOk)) host_->move_interrupts();
    return;
  }
  if (queue.enabled || has_status(kStatusDriverOk)) return;
  if (offset == offsetof(CommonConfig, queue_size)) {
    // Whether it is a power of two is the queue's business, when it starts.
    if (value <= queue.max_size) queue.config.size = static_cast<uint16_t>(value);
  } else if (offset == offsetof(CommonConfig, queue_enable)) {
    // A queue cannot be disabled but by a reset (§4.1.4.3.2).
    queue.enabled = value == 1;
  }
}

void VirtioPci::write_queue_address(uint64_t offset, Width width, uint64_t value) {
  if (queue_select_ >= queues_.size()) return;
  Queue& queue = queues_[queue_select_];
  if (queue.enabled || has_status(kStatusDriverOk)) return;
  const uint64_t part = offset - offsetof(CommonConfig, queue_desc_lo);
  const bool is_high = part % 8 == 4;
  const bool is_whole = part % 8 == 0 && width == Width::Qword;
  if (!is_whole && (part % 4 != 0 || width != Width::Dword)) return;
  Gpa* const addresses[] = {&queue.config.desc, &queue.config.avail, &queue.config.used};
  Gpa& address = *addresses[part / 8];
  address = Gpa{with_part(address.raw(), is_high, width, value)};
}

// Status ------------------------------------------------------------------------------------------

void VirtioPci::write_status(uint8_t value) {
  if (value == 0) return reset_device();
  constexpr uint8_t kPlain = kStatusAcknowledge | kStatusDriver | kStatusFailed;
  uint8_t wanted = value & kPlain;
  if ((value & kStatusFeaturesOk) != 0) {
    // The driver reads back whether the bit stuck (§3.1.1). Legacy drivers have no VERSION_1.
    const bool is_acceptable =
        (driver_features_ & ~offered_features()) == 0 && (driver_features_ & kFeatureVersion1) != 0;
    if (is_acceptable) wanted |= kStatusFeaturesOk;
  }
  const bool was_active = has_status(kStatusDriverOk);
  const bool may_start = has_status(kStatusFeaturesOk) && !was_active;
  if ((value & kStatusDriverOk) != 0 && may_start) wanted |= kStatusDriverOk;
  status_.fetch_or(wanted, std::memory_order_acq_rel);
  if ((wanted & kStatusDriverOk) != 0) activate();
}

void VirtioPci::activate() {
  std::vector<std::optional<QueueConfig>> configs;
  for (const Queue& queue : queues_) {
    configs.push_back(queue.enabled ? std::optional(queue.config) : std::nullopt);
  }
  host_->activate(driver_features_, std::move(configs));
}

void VirtioPci::reset_device() {
  // After this the device's thread is out of the guest's memory, and interrupts no more.
  if (has_status(kStatusDriverOk)) host_->reset();
  status_.store(0, std::memory_order_release);
  device_feature_select_ = driver_feature_select_ = 0;
  driver_features_ = 0;
  queue_select_ = 0;
  config_vector_.store(kNoVector, std::memory_order_relaxed);
  for (size_t i = 0; i < queues_.size(); ++i) {
    queue_vectors_[i].store(kNoVector, std::memory_order_relaxed);
    queues_[i].enabled = false;
    queues_[i].config =
        QueueConfig{.size = queues_[i].max_size, .desc = {}, .avail = {}, .used = {}};
  }
  read_isr();
}

// Interrupts --------------------------------------------------------------------------------------

void VirtioPci::queue_used(uint16_t queue) {
  if (queue >= queues_.size()) return;
  interrupt(virtio_pci::kIsrQueue, queue_vectors_[queue].load(std::memory_order_relaxed));
}

const Fd* VirtioPci::lend_interrupt(uint16_t queue) {
  if (queue >= queues_.size()) return nullptr;
  return msix()->lend(queue_vectors_[queue].load(std::memory_order_relaxed));
}

// Also without MSI-X, when none has a vector: there is one wire.
bool VirtioPci::is_shared(uint16_t queue, uint16_t other) const {
  if (queue >= queues_.size() || other >= queues_.size()) return false;
  return queue_vectors_[queue].load(std::memory_order_relaxed) ==
         queue_vectors_[other].load(std::memory_order_relaxed);
}

void VirtioPci::config_changed() {
  config_generation_.fetch_add(1, std::memory_order_acq_rel);
  interrupt(virtio_pci::kIsrConfig, config_vector_.load(std::memory_order_relaxed));
}

void VirtioPci::needs_reset() {
  const uint8_t before = status_.fetch_or(kStatusNeedsReset, std::memory_order_acq_rel);
  // Once is enough, however many queues break.
  if ((before & kStatusNeedsReset) != 0 || (before & kStatusDriverOk) == 0) return;
  interrupt(virtio_pci::kIsrConfig, config_vector_.load(std::memory_order_relaxed));
}

void VirtioPci::interrupt(uint8_t isr_bit, uint16_t vector) {
  const bool has_msix = msix()->is_enabled();
  // §4.1.4.5.1: the configuration bit is set in any case, the queue bit for INTx only.
  if (!has_msix || isr_bit == virtio_pci::kIsrConfig) {
    const std::lock_guard lock(isr_mutex_);
    isr_ |= isr_bit;
    if (!has_msix) set_intx(true);
  }
  if (has_msix && vector != kNoVector) msix()->notify(vector);
}

uint8_t VirtioPci::read_isr() {
  const std::lock_guard lock(isr_mutex_);
  set_intx(false);
  return std::exchange(isr_, uint8_t{0});
}

// Device configuration ----------------------------------------------------------------------------

uint64_t VirtioPci::read_device(uint64_t offset, Width width) {
  uint64_t value = 0;
  const uint64_t bytes = std::min<uint64_t>(bytes_of(width), device_.config_bytes() - offset);
  device_.read_config(static_cast<uint32_t>(offset),
                      {reinterpret_cast<std::byte*>(&value), static_cast<size_t>(bytes)});
  return value;
}

void VirtioPci::write_device(uint64_t offset, Width width, uint64_t value) {
  const uint64_t bytes = std::min<uint64_t>(bytes_of(width), device_.config_bytes() - offset);
  device_.write_config(static_cast<uint32_t>(offset),
                       {reinterpret_cast<const std::byte*>(&value), static_cast<size_t>(bytes)});
}

// PCI configuration access (§4.1.4.9): the BAR through configuration space ------------------------

uint32_t VirtioPci::window_read(std::span<const uint8_t> capability, unsigned offset, Width width) {
  const auto target = virtio_pci::decode_window(capability, offset, width);
  if (!target) return static_cast<uint32_t>(all_ones(width));
  return static_cast<uint32_t>(bar_read(virtio_pci::kBar, target->offset, target->width));
}

void VirtioPci::window_write(std::span<const uint8_t> capability, unsigned offset, Width width,
                             uint32_t value) {
  const auto target = virtio_pci::decode_window(capability, offset, width);
  if (target) bar_write(virtio_pci::kBar, target->offset, target->width, value);
}

// Snapshot ----------------------------------------------------------------------------------------

VirtioPciState VirtioPci::save_state() {
  VirtioPciState state;
  state.active_queues = host_->save_queues();
  state.pci = PciDevice::save();
  const std::scoped_lock lock(mutex_, isr_mutex_);
  state.status = status_.load(std::memory_order_acquire);
  state.isr = isr_;
  state.config_generation = config_generation_.load(std::memory_order_acquire);
  state.config_vector = config_vector_.load(std::memory_order_relaxed);
  state.queue_select = queue_select_;
  state.device_feature_select = device_feature_select_;
  state.driver_feature_select = driver_feature_select_;
  state.driver_features = driver_features_;
  for (size_t i = 0; i < queues_.size(); ++i) {
    state.queues.push_back({.config = queues_[i].config,
                            .enabled = queues_[i].enabled,
                            .vector = queue_vectors_[i].load(std::memory_order_relaxed)});
  }
  return state;
}

Result<void> VirtioPci::restore_state(const VirtioPciState& state) {
  if (state.queues.size() != queues_.size()) {
    return fail("the saved state of {} has {} queues, the device has {}", name(),
                state.queues.size(), queues_.size());
  }
  TRY(PciDevice::restore(state.pci));
  {
    const std::scoped_lock lock(mutex_, isr_mutex_);
    status_.store(state.status, std::memory_order_release);
    isr_ = state.isr;
    config_generation_.store(state.config_generation, std::memory_order_release);
    config_vector_.store(checked_vector(state.config_vector), std::memory_order_relaxed);
    queue_select_ = state.queue_select;
    device_feature_select_ = state.device_feature_select;
    driver_feature_select_ = state.driver_feature_select;
    driver_features_ = state.driver_features & offered_features();
    for (size_t i = 0; i < queues_.size(); ++i) {
      queues_[i].config = state.queues[i].config;
      queues_[i].enabled = state.queues[i].enabled;
      queue_vectors_[i].store(checked_vector(state.queues[i].vector), std::memory_order_relaxed);
    }
  }
  if ((state.status & kStatusDriverOk) != 0) {
    host_->restore(driver_features_, state.active_queues);
  }
  return {};
}

}  // namespace trapeze
