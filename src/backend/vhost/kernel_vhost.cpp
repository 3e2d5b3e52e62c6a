#include "backend/vhost/kernel_vhost.h"

#include <fcntl.h>
#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>
#include <sys/ioctl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "base/log.h"

namespace trapeze {
namespace {

// What the transport offers to drivers, whoever serves the rings.
constexpr uint64_t kRingFeatures = (uint64_t{1} << VIRTIO_F_VERSION_1) |
                                   (uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC) |
                                   (uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);

uint64_t address_of(const void* place) { return reinterpret_cast<uint64_t>(place); }

}  // namespace

int KernelVhost::system_ioctl(int fd, unsigned long request, void* argument) {
  return ::ioctl(fd, request, argument);
}

Result<KernelVhost> KernelVhost::open(const char* path, uint64_t needed, Ioctl call) {
  Fd fd(::open(path, O_RDWR | O_CLOEXEC));
  if (!fd.is_open()) return fail_errno("cannot open {}", path);
  KernelVhost vhost(path, std::move(fd), call);
  if (call(vhost.fd_.get(), VHOST_SET_OWNER, nullptr) != 0) {
    return fail_errno("{}: VHOST_SET_OWNER", path);
  }
  if (call(vhost.fd_.get(), VHOST_GET_FEATURES, &vhost.features_) != 0) {
    return fail_errno("{}: VHOST_GET_FEATURES", path);
  }
  needed |= kRingFeatures;
  if ((vhost.features_ & needed) != needed) return fail("{}: is too old", path);
  return vhost;
}

Result<void> KernelVhost::set_up(uint64_t features, std::span<const ServedMemory> memory) {
  TRY(set(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", features & features_));
  return set_memory(memory);
}

Result<void> KernelVhost::set_memory(std::span<const ServedMemory> memory) {
  // A table with its length in front.
  std::vector<std::byte> bytes(sizeof(vhost_memory) + memory.size() * sizeof(vhost_memory_region));
  const vhost_memory head{.nregions = static_cast<uint32_t>(memory.size()), .padding = 0};
  std::memcpy(bytes.data(), &head, sizeof(head));
  size_t at = sizeof(head);
  for (const ServedMemory& range : memory) {
    const vhost_memory_region region{.guest_phys_addr = range.guest_address,
                                     .memory_size = range.bytes,
                                     .userspace_addr = address_of(range.host),
                                     .flags_padding = 0};
    std::memcpy(bytes.data() + at, &region, sizeof(region));
    at += sizeof(region);
  }
  if (call_(fd_.get(), VHOST_SET_MEM_TABLE, bytes.data()) != 0) {
    return fail_errno("{}: VHOST_SET_MEM_TABLE", path_);
  }
  return {};
}

Result<void> KernelVhost::set_ring(unsigned index, const ServedRing& ring) {
  TRY(set(VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM",
          vhost_vring_state{.index = index, .num = ring.size}));
  TRY(set(VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE",
          vhost_vring_state{.index = index, .num = ring.next_avail}));
  TRY(set(VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR",
          vhost_vring_addr{.index = index,
                           .flags = 0,
                           .desc_user_addr = address_of(ring.desc),
                           .used_user_addr = address_of(ring.used),
                           .avail_user_addr = address_of(ring.avail),
                           .log_guest_addr = 0}));
  TRY(set(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK",
          vhost_vring_file{.index = index, .fd = ring.kick->get()}));
  return set_call(index, *ring.call);
}

Result<void> KernelVhost::set_call(unsigned index, const Fd& call) {
  return set(VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
             vhost_vring_file{.index = index, .fd = call.get()});
}

uint16_t KernelVhost::next_avail(unsigned index) {
  vhost_vring_state base{.index = index, .num = 0};
  if (call_(fd_.get(), VHOST_GET_VRING_BASE, &base) != 0) {
    log(LogLevel::Warning, "{}: VHOST_GET_VRING_BASE: {}", path_, errno_text(errno));
  }
  return static_cast<uint16_t>(base.num);
}

}  // namespace trapeze
