#include "backend/net/vhost_net.h"

#include <fcntl.h>
#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>
#include <sys/ioctl.h>

#include <cstring>

#include "base/log.h"

namespace trapeze {
namespace {

// Without these we would have to translate headers, or suppress notifications ourselves.
constexpr uint64_t kNeeded = (uint64_t{1} << VIRTIO_F_VERSION_1) | (uint64_t{1} << 15);
constexpr int kNoBackend = -1;

uint64_t address_of(const void* place) { return reinterpret_cast<uint64_t>(place); }

}  // namespace

int VhostNet::system_ioctl(int fd, unsigned long request, void* argument) {
  return ::ioctl(fd, request, argument);
}

Result<std::unique_ptr<VhostNet>> VhostNet::create(std::vector<const Fd*> taps, const char* device,
                                                   Ioctl call) {
  std::unique_ptr<VhostNet> vhost(new VhostNet(call));
  for (const Fd* tap : taps) {
    Pair pair{.fd = Fd(::open(device, O_RDWR | O_CLOEXEC)), .tap = tap};
    if (!pair.fd.is_open()) return fail_errno("cannot open {}", device);
    if (call(pair.fd.get(), VHOST_SET_OWNER, nullptr) != 0) {
      return fail_errno("{}: VHOST_SET_OWNER", device);
    }
    if (call(pair.fd.get(), VHOST_GET_FEATURES, &vhost->features_) != 0) {
      return fail_errno("{}: VHOST_GET_FEATURES", device);
    }
    vhost->pairs_.push_back(std::move(pair));
  }
  if ((vhost->features_ & kNeeded) != kNeeded) return fail("{}: is too old", device);
  return vhost;
}

VhostNet::~VhostNet() {
  for (uint16_t queue = 0; queue < pairs_.size() * 2; ++queue) stop(queue);
}

template <typename T>
Result<void> VhostNet::set(const Pair& pair, unsigned long request, const char* name, T argument) {
  if (call_(pair.fd.get(), request, &argument) != 0) return fail_errno("vhost-net: {}", name);
  return {};
}

Result<void> VhostNet::set_memory(Pair& pair, std::span<const NetMemoryRange> memory) {
  // A table with its length in front.
  std::vector<std::byte> bytes(sizeof(vhost_memory) + memory.size() * sizeof(vhost_memory_region));
  const vhost_memory head{.nregions = static_cast<uint32_t>(memory.size()), .padding = 0};
  std::memcpy(bytes.data(), &head, sizeof(head));
  size_t at = sizeof(head);
  for (const NetMemoryRange& range : memory) {
    const vhost_memory_region region{.guest_phys_addr = range.guest_address,
                                     .memory_size = range.bytes,
                                     .userspace_addr = address_of(range.host),
                                     .flags_padding = 0};
    std::memcpy(bytes.data() + at, &region, sizeof(region));
    at += sizeof(region);
  }
  if (call_(pair.fd.get(), VHOST_SET_MEM_TABLE, bytes.data()) != 0) {
    return fail_errno("vhost-net: VHOST_SET_MEM_TABLE");
  }
  return {};
}

Result<void> VhostNet::start(uint64_t features, std::span<const NetMemoryRange> memory,
                             std::span<const NetRing> rings) {
  Result<void> result;
  for (Pair& pair : pairs_) {
    result = set(pair, VHOST_SET_FEATURES, "VHOST_SET_FEATURES", features & features_);
    if (result) result = set_memory(pair, memory);
    if (!result) return result;
  }
  for (const NetRing& ring : rings) {
    result = start_ring(ring);
    if (!result) break;
  }
  if (!result) {
    for (const NetRing& ring : rings) stop(ring.queue);
  }
  return result;
}

Result<void> VhostNet::start_ring(const NetRing& ring) {
  Pair& pair = pairs_[ring.queue / 2];
  const unsigned index = ring.queue % 2;
  TRY(set(pair, VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM",
          vhost_vring_state{.index = index, .num = ring.size}));
  TRY(set(pair, VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE",
          vhost_vring_state{.index = index, .num = ring.next_avail}));
  TRY(set(pair, VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR",
          vhost_vring_addr{.index = index,
                           .flags = 0,
                           .desc_user_addr = address_of(ring.desc),
                           .used_user_addr = address_of(ring.used),
                           .avail_user_addr = address_of(ring.avail),
                           .log_guest_addr = 0}));
  TRY(set(pair, VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK",
          vhost_vring_file{.index = index, .fd = ring.kick->get()}));
  TRY(set_call(ring.queue, *ring.call));
  TRY(set(pair, VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND",
          vhost_vring_file{.index = index, .fd = pair.tap->get()}));
  pair.is_running[index] = true;
  return {};
}

Result<void> VhostNet::set_call(uint16_t queue, const Fd& call) {
  return set(pairs_[queue / 2], VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
             vhost_vring_file{.index = queue % 2U, .fd = call.get()});
}

uint16_t VhostNet::stop(uint16_t queue) {
  Pair& pair = pairs_[queue / 2];
  const unsigned index = queue % 2;
  if (!pair.is_running[index]) return 0;
  pair.is_running[index] = false;
  vhost_vring_file none{.index = index, .fd = kNoBackend};
  vhost_vring_state base{.index = index, .num = 0};
  // The first waits for what is under way.
  if (call_(pair.fd.get(), VHOST_NET_SET_BACKEND, &none) != 0 ||
      call_(pair.fd.get(), VHOST_GET_VRING_BASE, &base) != 0) {
    log(LogLevel::Warning, "vhost-net: a ring cannot be stopped: {}", errno_text(errno));
  }
  return static_cast<uint16_t>(base.num);
}

}  // namespace trapeze
