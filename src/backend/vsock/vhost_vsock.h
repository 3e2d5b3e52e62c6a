// VhostVsock: the rings of a virtio-vsock served by the host's kernel (vhost-vsock), so that the
// guest is a CID of the host's AF_VSOCK.
#pragma once

#include <memory>

#include "backend/vhost/kernel_vhost.h"

namespace trapeze {

class VhostVsock final : public RingService {
 public:
  // The CID is this machine's from now on, until this is destroyed.
  static Result<std::unique_ptr<VhostVsock>> create(
      uint64_t guest_cid, const char* device = kDevice,
      KernelVhost::Ioctl call = &KernelVhost::system_ioctl);
  ~VhostVsock() override { pause(); }

  uint64_t features() const override { return vhost_.features(); }
  // `rings`: 0 and 1, both.
  Result<void> start(uint64_t features, std::span<const ServedMemory> memory,
                     std::span<const ServedRing> rings) override;
  Result<void> set_call(uint16_t queue, const Fd& call) override;
  uint16_t stop(uint16_t queue) override;

  static constexpr const char* kDevice = "/dev/vhost-vsock";

 private:
  explicit VhostVsock(KernelVhost vhost) : vhost_(std::move(vhost)) {}
  void pause();

  KernelVhost vhost_;
  bool is_running_ = false;
};

}  // namespace trapeze
