// virtio-fs (virtio 1.2 §5.11): a folder of the host in the guest. The device moves requests and
// replies; what they say is between the guest's FUSE and the FsServer.
//
// Threads: as VirtioDevice says; the FsServer lives on the same EventLoop. A request is served to
// its end in on_kick(), so slow storage holds up this loop. A short request that comes alone is
// served by the vCPU that kicks, within the bounds of StallLimit.
#pragma once

#include <string>

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
  // `server` must outlive the device.
  FsDevice(const FsConfig& config, FsServer& server);
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
  void handle(VirtQueue& queue, Chain& chain);

  FsServer& server_;
  fs::Config config_;
  ActiveState* active_ = nullptr;
  Chain chain_;
  FsMetrics metrics_;
};

}  // namespace trapeze
