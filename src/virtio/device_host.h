// DeviceHost: joins a VirtioDevice to its EventLoop; every transport has one. It owns the doorbells
// (one eventfd for each queue) and, while the device is active, its ActiveState.
//
// Threads: the members may be called from any thread; activate(), restore(), reset() and
// save_queues() by one at a time (the transport holds its lock; the loop never takes that lock).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "virtio/device.h"
#include "virtio/stall_limit.h"

namespace trapeze {

class DeviceHost {
 public:
  // All must outlive the host.
  static Result<std::unique_ptr<DeviceHost>> create(VirtioDevice& device, GuestMemory& memory,
                                                    EventLoop& loop, DeviceInterrupt& interrupt);
  // Waits until the device is quiet.
  ~DeviceHost();
  DeviceHost(const DeviceHost&) = delete;
  DeviceHost& operator=(const DeviceHost&) = delete;

  VirtioDevice& device() { return device_; }
  uint16_t queue_count() const { return static_cast<uint16_t>(doorbells_.size()); }

  // The driver's kick, on its vCPU's thread; ignored for a queue that does not exist. Waits for
  // nobody; what the device can do at once is done when it returns.
  void ring(uint16_t queue);
  // For ioeventfd, unless ring() has to come. Constant.
  const Fd& doorbell(uint16_t queue) const { return doorbells_[queue]; }
  bool needs_ring(uint16_t queue) const { return device_.takes_vcpu_kicks(queue); }

  // Has the device ask for its interrupts again.
  void move_interrupts();

  // The driver is ready (DRIVER_OK). Returns before the device has seen it.
  void activate(uint64_t features, std::vector<std::optional<QueueConfig>> queues);
  // The same from a snapshot. The device's own state is restored before.
  void restore(uint64_t features, std::vector<std::optional<QueueState>> queues);
  // Afterwards the device is inactive: it touches no queue and no memory of the guest any more.
  // Waits for the device's thread, at most for the handler that runs there.
  void reset();
  // While the vCPUs are paused. Empty when the device is not active.
  std::vector<std::optional<QueueState>> save_queues();

 private:
  DeviceHost(VirtioDevice& device, GuestMemory& memory, EventLoop& loop, DeviceInterrupt& interrupt,
             std::vector<Fd> doorbells);
  void kick(uint16_t queue);
  // Loop thread, or in its turn.
  bool serve_on_vcpu(uint16_t queue);
  void start(uint64_t features, std::vector<std::optional<QueueState>> queues);
  void stop();
  void on_doorbell(uint16_t queue);

  VirtioDevice& device_;
  GuestMemory& memory_;
  EventLoop& loop_;
  DeviceInterrupt& interrupt_;
  const std::vector<Fd> doorbells_;
  std::atomic<bool> is_move_posted_{false};  // so that a guest has one task posted at most
  std::unique_ptr<ActiveState> active_;      // in the loop's turn only
  StallLimit stalls_;                        // likewise
  HostClock clock_;
};

}  // namespace trapeze
