// VhostNet: queue pairs served by the kernel between guest memory and a tap (vhost-net,
// <linux/vhost.h>). A descriptor of /dev/vhost-net for each pair; rings 0 and 1 of it are what the
// device receives with and sends with.
//
// The kernel writes into guest memory without telling GuestMemory's observer. docs/network.md says
// what that means with the software engine.
#pragma once

#include <memory>
#include <vector>

#include "virtio/net/rings.h"

namespace trapeze {

class VhostNet final : public NetRings {
 public:
  // As ioctl(2); tests put theirs in.
  using Ioctl = int (*)(int fd, unsigned long request, void* argument);

  // `taps` must outlive this. One for each pair.
  static Result<std::unique_ptr<VhostNet>> create(std::vector<const Fd*> taps,
                                                  const char* device = kDevice,
                                                  Ioctl call = &system_ioctl);
  ~VhostNet() override;

  uint64_t features() const override { return features_; }
  Result<void> start(uint64_t features, std::span<const NetMemoryRange> memory,
                     std::span<const NetRing> rings) override;
  Result<void> set_call(uint16_t queue, const Fd& call) override;
  uint16_t stop(uint16_t queue) override;

  static constexpr const char* kDevice = "/dev/vhost-net";

 private:
  struct Pair {
    Fd fd;
    const Fd* tap = nullptr;
    bool is_running[2] = {};
  };

  explicit VhostNet(Ioctl call) : call_(call) {}
  static int system_ioctl(int fd, unsigned long request, void* argument);
  Result<void> set_memory(Pair& pair, std::span<const NetMemoryRange> memory);
  Result<void> start_ring(const NetRing& ring);
  template <typename T>
  Result<void> set(const Pair& pair, unsigned long request, const char* name, T argument);

  const Ioctl call_;
  std::vector<Pair> pairs_;
  uint64_t features_ = 0;
};

}  // namespace trapeze
