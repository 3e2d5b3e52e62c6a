// VirtioPci: the virtio-pci transport, modern only (virtio 1.2 §4.1), for any VirtioDevice.
//
// Threads: register accesses come from vCPU threads, several at once, and are serialised by one
// mutex; doorbells and the ISR do not take it. The device interrupts from its loop's thread; that
// path takes no lock that is held while waiting for the loop, so a reset, which waits, cannot
// deadlock.
//
// Device status (§2.1.1): a driver sets bits, never clears them, and a 0 resets:
//   reset -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK (only if the features are acceptable)
//         -> DRIVER_OK (only after FEATURES_OK): the device becomes active
// Feature bits can be written until FEATURES_OK, queues be set up until DRIVER_OK.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "bus/pci/pci_root.h"
#include "memory/guest_memory.h"
#include "virtio/device.h"
#include "virtio/device_host.h"
#include "virtio/transport/pci_config.h"
#include "virtio/transport/pci_layout.h"

namespace trapeze {

// One queue as the driver has set it up.
struct VirtioPciQueueState {
  QueueConfig config;
  bool enabled = false;
  uint16_t vector = virtio_pci::kNoVector;
  bool operator==(const VirtioPciQueueState&) const = default;
};

struct VirtioPciState {
  PciDeviceState pci;
  uint8_t status = 0;
  uint8_t isr = 0;
  uint8_t config_generation = 0;
  uint16_t config_vector = virtio_pci::kNoVector;
  uint16_t queue_select = 0;
  uint32_t device_feature_select = 0;
  uint32_t driver_feature_select = 0;
  uint64_t driver_features = 0;
  std::vector<VirtioPciQueueState> queues;
  std::vector<std::optional<QueueState>> active_queues;  // empty when the device is not active
};

class VirtioPci final : public PciDevice, private DeviceInterrupt {
 public:
  // All must outlive the transport. `loop` becomes the device's thread.
  using Doorbells = virtio_pci::Doorbells;
  static Result<std::unique_ptr<VirtioPci>> create(std::string name, VirtioDevice& device,
                                                   GuestMemory& memory, EventLoop& loop,
                                                   Doorbells doorbells);
  // The same, in a free slot of `root`, with the doorbells that are fastest there.
  static Result<std::unique_ptr<VirtioPci>> create_in(PciRoot& root, std::string name,
                                                      VirtioDevice& device, GuestMemory& memory,
                                                      EventLoop& loop);
  // Waits until the device is quiet. No vCPU may run any more.
  ~VirtioPci() override;

  // For doorbells that the kernel watches (ioeventfd): write anything, any width, at BAR 0 + this.
  // Those at ports are laid out alike from 0 on.
  static constexpr uint64_t doorbell_offset(uint16_t queue) {
    return virtio_pci::kNotifyOffset + uint64_t{queue} * virtio_pci::kNotifyMultiplier;
  }
  const Fd& doorbell(uint16_t queue) const { return host_->doorbell(queue); }
  uint16_t queue_count() const { return host_->queue_count(); }

  // PciDevice.
  uint64_t bar_read(unsigned bar, uint64_t offset, Width width) override;
  void bar_write(unsigned bar, uint64_t offset, Width width, uint64_t value) override;
  uint32_t window_read(std::span<const uint8_t> capability, unsigned offset, Width width) override;
  void window_write(std::span<const uint8_t> capability, unsigned offset, Width width,
                    uint32_t value) override;
  void bar_placed(unsigned bar, std::optional<Gpa> address) override;
  void msix_recalled() override { host_->move_interrupts(); }

  // While no vCPU runs, and not on the device's loop. The device's own state is saved before and
  // restored before.
  VirtioPciState save_state();
  Result<void> restore_state(const VirtioPciState& state);

 private:
  struct Queue {
    QueueConfig config;
    bool enabled = false;
    uint16_t max_size = 0;
  };

  VirtioPci(const PciDeviceConfig& config, VirtioDevice& device);

  void ring(uint64_t offset);
  DoorbellPlace doorbell_place(Gpa bar, uint16_t queue) const;

  // DeviceInterrupt.
  void queue_used(uint16_t queue) override;
  const Fd* lend_interrupt(uint16_t queue) override;
  bool is_shared(uint16_t queue, uint16_t other) const override;
  void config_changed() override;
  void needs_reset() override;

  void interrupt(uint8_t isr_bit, uint16_t vector);
  uint8_t read_isr();
  uint64_t read_common(uint64_t offset, Width width);
  void write_common(uint64_t offset, Width width, uint64_t value);
  void write_control(uint64_t offset, Width width, uint64_t value);
  void write_queue(uint64_t offset, Width width, uint64_t value);
  void write_queue_address(uint64_t offset, Width width, uint64_t value);
  void write_status(uint8_t value);
  void reset_device();
  void activate();
  uint64_t read_device(uint64_t offset, Width width);
  void write_device(uint64_t offset, Width width, uint64_t value);

  uint64_t offered_features() const { return device_.offered_features() | kTransportFeatures; }
  bool has_status(uint8_t bits) const {
    return (status_.load(std::memory_order_acquire) & bits) == bits;
  }
  uint16_t checked_vector(uint64_t vector) {
    return vector < msix()->vectors() ? static_cast<uint16_t>(vector) : virtio_pci::kNoVector;
  }

  VirtioDevice& device_;
  std::unique_ptr<DeviceHost> host_;

  std::mutex mutex_;  // the registers below; never taken by the device's thread
  uint32_t device_feature_select_ = 0;
  uint32_t driver_feature_select_ = 0;
  uint64_t driver_features_ = 0;
  uint16_t queue_select_ = 0;
  std::vector<Queue> queues_;

  const bool has_port_doorbells_;
  std::optional<Gpa>
      bound_at_;  // where their BAR was when the doorbells were bound; PciRoot's lock

  // Written by vCPUs under mutex_, read (and NEEDS_RESET set) by the device's thread.
  std::atomic<uint8_t> status_{0};
  std::atomic<uint8_t> config_generation_{0};
  std::atomic<uint16_t> config_vector_{virtio_pci::kNoVector};
  std::unique_ptr<std::atomic<uint16_t>[]> queue_vectors_;

  // The ISR byte and the wire change together, or a read that clears the one could drop the other.
  std::mutex isr_mutex_;
  uint8_t isr_ = 0;
};

}  // namespace trapeze
