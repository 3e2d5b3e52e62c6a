// VhostUserBackend: the port of a vhost-user device: another process that does the device's work on
// rings in shared memory. Implemented by backend/vhost_user, which knows the socket's protocol.
//
// Threads: everything on the device's EventLoop, or while nothing runs it, but for what is said.
//
//   lost --backend_ready()--> idle --start()--> starting --backend_started()--> running
//   idle <--stop()-- starting, running           lost <--backend_lost()-- any
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace trapeze {

// What the back end says about itself after each connect.
struct VhostUserInfo {
  uint64_t features = 0;  // of the device type and virtio's own; none of the protocol's
  uint16_t queues = 1;
  std::vector<std::byte> config;  // as many bytes as were asked for
};

// Memory that the back end maps; descriptors carry guest addresses, rings user addresses.
struct VhostUserRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t user_address = 0;
  uint64_t file_offset = 0;
  int fd = -1;
};

struct VhostUserRing {
  uint16_t queue = 0;
  uint16_t size = 0;
  uint64_t desc = 0;  // user addresses
  uint64_t avail = 0;
  uint64_t used = 0;
  int kick_fd = -1;
  int call_fd = -1;
};

struct VhostUserSetup {
  uint64_t features = 0;
  std::vector<VhostUserRegion> regions;
  std::vector<VhostUserRing> rings;
};

class VhostUserClient {
 public:
  virtual ~VhostUserClient() = default;
  // Connected again. False: this is not the back end that it was; the connection is closed then.
  [[nodiscard]] virtual bool backend_ready(const VhostUserInfo& info) = 0;
  virtual void backend_started() = 0;
  virtual void backend_lost() = 0;
};

class VhostUserBackend {
 public:
  virtual ~VhostUserBackend() = default;
  // The first time that the back end was ready is before this; it may be lost since. nullptr
  // detaches; the client must outlive its attachment.
  virtual void attach(VhostUserClient* client) = 0;
  virtual bool is_ready() const = 0;  // idle
  // Only when ready. The fds stay open until stop() has returned or backend_lost() was called.
  virtual void start(const VhostUserSetup& setup) = 0;
  // The back end lets go of rings and memory. Waits for that, for a bounded time: a back end that
  // does not answer is disconnected. No backend_lost() is called from inside.
  virtual void stop() = 0;
  // It broke the rules: closes the connection, with a message. Calls backend_lost().
  virtual void reject(std::string_view why) = 0;
  // Into the device's configuration. Not confirmed.
  virtual void write_config(uint32_t offset, std::span<const std::byte> bytes) = 0;
};

}  // namespace trapeze
