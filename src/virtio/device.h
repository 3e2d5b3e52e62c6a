// VirtioDevice: what a virtio device implements, and nothing about how the guest reaches it.
//
// Threads. A device belongs to one EventLoop. activate(), on_kick() and reset() are called on that
// loop's thread, one at a time; whatever else the device does (a back end's fd became ready, a
// timer) runs on the same loop, so its data path needs no lock. The transport turns the driver's
// kick, made on a vCPU's thread, into an eventfd that the loop waits for: with ioeventfd or in the
// software engine it is the same fd. A device may also have a short piece of work done on the vCPU
// that asks for it (on_vcpu_kick), in the loop's place while the loop rests: no thread has to wake
// up for it, and its interrupt is there before the guest goes to sleep. Only read_config() and
// write_config() come from vCPU threads, several at once: what they touch, the device guards
// itself, and it must not wait for its loop there.
//
//   inactive --activate()--> active --reset()--> inactive
//
// Between activate() and reset() the ActiveState exists; outside there is no memory, no queue and
// no interrupt to use by mistake.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "memory/guest_memory.h"
#include "virtio/features.h"
#include "virtio/queue/virt_queue.h"

namespace trapeze {

// What the device tells the driver. Implemented by the transport; any thread.
class DeviceInterrupt {
 public:
  virtual ~DeviceInterrupt() = default;
  virtual void queue_used(uint16_t queue) = 0;  // unconditional: see ActiveState::notify_used
  virtual void config_changed() = 0;
  // Something is wrong that only a reset mends (virtio 1.2 §2.1.2). Queues that break report it
  // themselves.
  virtual void needs_reset() = 0;
  // For whoever serves `queue` outside of this process: writing to it is queue_used(queue). Null
  // where there is none; VirtioDevice::interrupts_moved() says when that may have changed. Stays
  // open until reset().
  virtual const Fd* lend_interrupt(uint16_t /*queue*/) { return nullptr; }
  // One interrupt says it of both queues.
  virtual bool is_shared(uint16_t /*queue*/, uint16_t /*other*/) const { return false; }
};

struct ActiveState {
  GuestMemory& memory;
  DeviceInterrupt& interrupt;
  uint64_t features = 0;  // negotiated
  // Has on_kick(queue) called again, after other work of the loop.
  std::function<void(uint16_t queue)> kick_again;
  // By queue number; empty where the driver did not enable the queue.
  std::vector<std::optional<VirtQueue>> queues;
  // For a queue that somebody else serves: kicks are theirs to read, on_kick() comes no more.
  std::function<const Fd&(uint16_t queue)> take_doorbell = {};

  bool has_feature(uint64_t feature) const { return (features & feature) != 0; }
  // Null when the driver did not enable it, or there is none of that number.
  VirtQueue* queue(size_t index) {
    return index < queues.size() && queues[index] ? &*queues[index] : nullptr;
  }
  // After a batch of push_used: the interrupt, if the driver wants it.
  void notify_used(uint16_t index) {
    if (needs_interrupt(index)) interrupt.queue_used(index);
  }
  // The same of two queues: with one interrupt, if they share it.
  void notify_both_used(uint16_t index, uint16_t other) {
    const bool is_needed = needs_interrupt(index);
    const bool is_other_needed = needs_interrupt(other);
    if (is_needed) interrupt.queue_used(index);
    const bool is_told = is_needed && interrupt.is_shared(index, other);
    if (is_other_needed && !is_told) interrupt.queue_used(other);
  }

  bool needs_interrupt(uint16_t index) {
    VirtQueue* used = queue(index);
    return used != nullptr && used->needs_interrupt();
  }
};

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // Constant for the life of the device. Any thread.
  virtual VirtioType type() const = 0;
  virtual uint64_t offered_features() const = 0;  // of this device type only
  // The number of queues, and the largest size of each (a power of two).
  virtual std::span<const uint16_t> queue_max_sizes() const = 0;
  // That all queues have one interrupt: where two of them mostly have something to tell at once.
  virtual bool has_one_interrupt() const { return false; }
  virtual uint32_t config_bytes() const = 0;

  // Any vCPU thread. [offset, offset + size) lies within config_bytes(). A write that the device
  // does not allow changes nothing.
  virtual void read_config(uint32_t offset, std::span<std::byte> to) = 0;
  virtual void write_config(uint32_t /*offset*/, std::span<const std::byte> /*from*/) {}

  // Loop thread. `state` stays valid, at its place, until reset() returns.
  virtual void activate(ActiveState& state) = 0;
  // Loop thread, while active. The driver says that `queue` has buffers (or, for queues that the
  // device fills, room); may be spurious. True when the device stopped early, to let others work,
  // and wants to be called again.
  [[nodiscard]] virtual bool on_kick(uint16_t queue) = 0;
  // Whether kicks of `queue` come to on_vcpu_kick() first; then no kernel watches its doorbell.
  // Constant once the device is with its transport. Any thread.
  virtual bool takes_vcpu_kicks(uint16_t /*queue*/) const { return false; }
  // As on_kick(), but the vCPU that kicks waits for it: for what is short and needs no waiting.
  // True: all that was there is done. False: on_kick() is to come. A vCPU thread, in the loop's
  // turn, while active.
  [[nodiscard]] virtual bool on_vcpu_kick(uint16_t /*queue*/) { return false; }
  // Loop thread, while active. What lend_interrupt() gave may be void, and what was written to it
  // last be lost.
  virtual void interrupts_moved() {}
  // Loop thread. Lets go of `state` and of every chain, forgets what the driver set up. No call
  // into the driver's memory after it.
  virtual void reset() = 0;
};

}  // namespace trapeze
