// virtio-fs (virtio 1.2 §5.11): a folder of the host in the guest. The device moves requests and
// replies; what they say is between the guest's FUSE and the FsServer.
//
// Threads: as VirtioDevice says; the FsServer lives on the same EventLoop. A request is served to
// its end in on_kick(), so slow storage holds up this loop. A short request that comes alone is
// served by the vCPU that kicks, within the bounds of StallLimit.
//
// Nobody waits for a FORGET, and one comes with each file that is unlinked or leaves the guest's
// caches. So while they come the driver kicks for a crowd of them only, and a timer looks for what
// is less.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/fs/metrics.h"
#include "virtio/fs/protocol.h"
#include "virtio/fs/server.h"
#include "virtio/fs/state.h"

namespace trapeze {

struct FsConfig {
  std::string tag;  // the guest mounts it by this name; 1 to fs::kTagBytes bytes
};

class FsDevice final : public VirtioDevice {
 public:
  // A FORGET waits for so many others, or so long, or for a request that the server has no room
  // for.
  static constexpr uint16_t kForgetCrowd = 32;
  static constexpr std::chrono::milliseconds kForgetWait{50};

  // `server` and `loop` must outlive the device.
  FsDevice(const FsConfig& config, FsServer& server, EventLoop& loop);
  ~FsDevice() override { reset(); }

  VirtioType type() const override { return VirtioType::FileSystem; }
  uint64_t offered_features() const override { return 0; }
  std::span<const uint16_t> queue_max_sizes() const override;
  uint32_t config_bytes() const override { return fs::kConfigBytes; }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override { active_ = &state; }
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  // Not those of forgets: they come in crowds, and nobody waits for them.
  bool takes_vcpu_kicks(uint16_t queue) const override { return queue >= fs::kFirstRequestQueue; }
  [[nodiscard]] bool on_vcpu_kick(uint16_t queue) override;
  void reset() override;

  const FsMetrics& metrics() const { return metrics_; }

  // On the loop's thread, or while nothing runs it.
  FsDeviceState save() const { return {}; }
  void restore(const FsDeviceState&) {}

 private:
  [[nodiscard]] bool serve_forgets();
  void look_for_forgets();
  void handle_request(VirtQueue& queue, Chain& chain);
  void handle(VirtQueue& queue, Chain& chain);

  FsServer& server_;
  EventLoop& loop_;
  fs::Config config_;
  ActiveState* active_ = nullptr;
  Chain chain_;
  Chain forget_chain_;
  std::optional<EventLoop::TimerId> forget_timer_;
  bool has_forgotten_ = false;  // since the timer was started
  FsMetrics metrics_;
};

}  // namespace trapeze
