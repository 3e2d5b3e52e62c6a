// KernelVhost: one descriptor of a device that works on rings in the kernel (<linux/vhost.h>): what
// /dev/vhost-net and /dev/vhost-vsock have in common. What starts and stops a ring is theirs.
//
// The kernel writes into guest memory without telling GuestMemory's observer. docs/network.md says
// what that means with the software engine.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "virtio/ring_service.h"

namespace trapeze {

class KernelVhost {
 public:
  // As ioctl(2); tests put theirs in.
  using Ioctl = int (*)(int fd, unsigned long request, void* argument);
  static int system_ioctl(int fd, unsigned long request, void* argument);

  // `needed`: feature bits without which it is of no use, besides those that every device has.
  static Result<KernelVhost> open(const char* path, uint64_t needed, Ioctl call);

  uint64_t features() const { return features_; }

  // In this order, all before the ring is started. `index`: the ring's number here.
  Result<void> set_up(uint64_t features, std::span<const ServedMemory> memory);
  Result<void> set_ring(unsigned index, const ServedRing& ring);

  Result<void> set_call(unsigned index, const Fd& call);
  // Of a ring that has been stopped: what is its `next_avail` by now.
  uint16_t next_avail(unsigned index);

  // One of the device's own.
  template <typename T>
  Result<void> set(unsigned long request, const char* name, T argument) {
    if (call_(fd_.get(), request, &argument) != 0) return fail_errno("{}: {}", path_, name);
    return {};
  }

 private:
  KernelVhost(const char* path, Fd fd, Ioctl call) : path_(path), fd_(std::move(fd)), call_(call) {}
  Result<void> set_memory(std::span<const ServedMemory> memory);

  std::string path_;  // for messages
  Fd fd_;
  Ioctl call_;
  uint64_t features_ = 0;
};

}  // namespace trapeze
