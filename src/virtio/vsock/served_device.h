// ServedVsockDevice: a virtio-vsock (virtio 1.2 §5.10) whose packets somebody else moves: a
// RingService, such as the host's kernel, which has a CID for it. Events are the device's own.
// It counts nothing, because it sees nothing.
//
// Threads: as VirtioDevice says. Construct and destroy it, and call save(), resume() and restore(),
// while the loop does not run or on its thread.
#pragma once

#include <array>
#include <cstdint>

#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/served_rings.h"
#include "virtio/vsock/state.h"
#include "virtio/vsock/transport_reset.h"

namespace trapeze {

class ServedVsockDevice final : public VirtioDevice {
 public:
  // `service` and `loop` must outlive the device.
  ServedVsockDevice(uint64_t guest_cid, RingService& service, EventLoop& loop)
      : guest_cid_(guest_cid), service_(service), rings_("vsock", loop) {}
  ~ServedVsockDevice() override { reset(); }

  VirtioType type() const override { return VirtioType::Vsock; }
  uint64_t offered_features() const override;
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  bool has_one_interrupt() const override { return true; }
  uint32_t config_bytes() const override { return sizeof(guest_cid_); }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void interrupts_moved() override { rings_.interrupts_moved(); }
  void reset() override;

  // save() before DeviceHost::save_queues(): the rings stand still until resume() (or a reset).
  VsockState save();
  void resume();
  // Before the transport's restore(), which activates the device. Its CID stays the one that the
  // service has here, and connections are gone: the driver is told.
  void restore(const VsockState&) { transport_reset_.order(); }

 private:
  static constexpr std::array<uint16_t, 3> kQueueSizes{256, 256, 16};

  void start_rings();

  const uint64_t guest_cid_;
  RingService& service_;
  ActiveState* active_ = nullptr;
  ServedRings rings_;
  TransportReset transport_reset_;
};

}  // namespace trapeze
