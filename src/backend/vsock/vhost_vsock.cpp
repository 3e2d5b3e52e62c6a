#include "backend/vsock/vhost_vsock.h"

#define VIRTIO_RING_NO_LEGACY  // what follows else is C
#include <linux/vhost.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/event_fd.h"
#include "base/log.h"

namespace trapeze {
namespace {

// What to do about it.
Unexpected<Error> explain(Error error, const char* device) {
  const bool is_forbidden = error.os_error == EACCES || error.os_error == EPERM;
  if (is_forbidden) {
    error.message += fmt::format("; give this user access to {}", device);
  } else if (error.os_error == ENOENT || error.os_error == ENODEV || error.os_error == ENXIO) {
    error.message += "; the host's module for it is missing: modprobe vhost_vsock";
  }
  return Unexpected(std::move(error));
}

}  // namespace

Result<std::unique_ptr<VhostVsock>> VhostVsock::create(uint64_t guest_cid, const char* device,
                                                       KernelVhost::Ioctl call) {
  auto opened = KernelVhost::open(device, 0, call);
  if (!opened) return explain(std::move(opened.error()), device);
  std::unique_ptr<VhostVsock> vsock(new VhostVsock(std::move(*opened)));
  const auto taken =
      vsock->vhost_.set(VHOST_VSOCK_SET_GUEST_CID, "VHOST_VSOCK_SET_GUEST_CID", guest_cid);
  if (!taken && taken.error().os_error == EADDRINUSE) {
    return fail("another machine of this host has CID {}; choose another one with cid=N",
                guest_cid);
  }
  if (!taken) return Unexpected(taken.error());
  return vsock;
}

Result<void> VhostVsock::start(uint64_t features, std::span<const ServedMemory> memory,
                               std::span<const ServedRing> rings) {
  TRY(vhost_.set_up(features, memory));
  for (const ServedRing& ring : rings) TRY(vhost_.set_ring(ring.queue, ring));
  TRY(vhost_.set(VHOST_VSOCK_SET_RUNNING, "VHOST_VSOCK_SET_RUNNING", int{1}));
  is_running_ = true;
  // A kick that came between VHOST_SET_VRING_KICK and this was heard and found nobody.
  for (const ServedRing& ring : rings) signal_event(*ring.kick);
  return {};
}

Result<void> VhostVsock::set_call(uint16_t queue, const Fd& call) {
  return vhost_.set_call(queue, call);
}

// Both rings at once; waits for what is under way.
void VhostVsock::pause() {
  if (!std::exchange(is_running_, false)) return;
  const auto stopped = vhost_.set(VHOST_VSOCK_SET_RUNNING, "VHOST_VSOCK_SET_RUNNING", int{0});
  if (!stopped) log(LogLevel::Warning, "it cannot be stopped: {}", stopped.error().message);
}

uint16_t VhostVsock::stop(uint16_t queue) {
  pause();
  return vhost_.next_avail(queue);
}

}  // namespace trapeze
