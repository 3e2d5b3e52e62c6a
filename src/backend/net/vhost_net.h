// VhostNet: queue pairs served by the kernel between guest memory and a tap (vhost-net). A
// descriptor of /dev/vhost-net for each pair; rings 0 and 1 of it are what the device receives with
// and sends with.
#pragma once

#include <memory>
#include <vector>

#include "backend/vhost/kernel_vhost.h"

namespace trapeze {

class VhostNet final : public RingService {
 public:
  // `taps` must outlive this. One for each pair.
  static Result<std::unique_ptr<VhostNet>> create(
      std::vector<const Fd*> taps, const char* device = kDevice,
      KernelVhost::Ioctl call = &KernelVhost::system_ioctl);
  ~VhostNet() override;

  uint64_t features() const override { return pairs_.front().vhost.features(); }
  Result<void> start(uint64_t features, std::span<const ServedMemory> memory,
                     std::span<const ServedRing> rings) override;
  Result<void> set_call(uint16_t queue, const Fd& call) override;
  uint16_t stop(uint16_t queue) override;

  static constexpr const char* kDevice = "/dev/vhost-net";

 private:
  struct Pair {
    KernelVhost vhost;
    const Fd* tap = nullptr;
    bool is_running[2] = {};
  };

  VhostNet() = default;
  Result<void> start_ring(const ServedRing& ring);

  std::vector<Pair> pairs_;
};

}  // namespace trapeze
