// RingService: works on the rings of a device itself, beside this process (vhost in the kernel).
// The device then only sets it up (virtio/served_rings.h): the driver's kicks go there, interrupts
// come from there.
//
// Threads: all calls on the device's EventLoop thread (or while nothing runs the loop).
#pragma once

#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

struct ServedRing {
  uint16_t queue = 0;  // its number in the device
  uint16_t size = 0;
  uint16_t next_avail = 0;
  // In this process; wholly in guest RAM.
  void* desc = nullptr;
  void* avail = nullptr;
  void* used = nullptr;
  const Fd* kick = nullptr;
  const Fd* call = nullptr;  // written when the driver wants an interrupt
};

// What the guest has as memory, as a table: RAM, and files that it may name in requests, too.
struct ServedMemory {
  uint64_t guest_address = 0;
  uint64_t bytes = 0;
  void* host = nullptr;
};

class RingService {
 public:
  virtual ~RingService() = default;
  // Feature bits that it can take, of those that concern rings and what is in them.
  virtual uint64_t features() const = 0;
  // All of them, or none. The memory and the eventfds stay until stop().
  virtual Result<void> start(uint64_t features, std::span<const ServedMemory> memory,
                             std::span<const ServedRing> rings) = 0;
  // Of a running ring: from now on it is this one, which stays until stop() or the next.
  virtual Result<void> set_call(uint16_t queue, const Fd& call) = 0;
  // Afterwards nobody touches the ring, and when all have been stopped, memory; gives what was
  // `next_avail` by then. Only for rings of the last start().
  virtual uint16_t stop(uint16_t queue) = 0;
};

}  // namespace trapeze
