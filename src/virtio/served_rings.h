// ServedRings: a device's side of a RingService: hands rings, doorbells and interrupts over, and
// takes the rings back.
//
// Threads: as VirtioDevice says.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "virtio/device.h"
#include "virtio/ring_service.h"

namespace trapeze {

class ServedRings {
 public:
  // `loop` must outlive this. `name`: for messages.
  ServedRings(std::string name, EventLoop& loop) : name_(std::move(name)), loop_(loop) {}

  // Hands over those of `queues` that the driver enabled and that are whole. What they get to know
  // of the negotiated features: those of rings, and `more`. The driver is told when that fails: a
  // failure is one of the host, which could do it when the machine was built.
  void start(RingService& service, ActiveState& active, std::span<const uint16_t> queues,
             uint64_t more);
  bool are_served() const { return !calls_.empty(); }
  void interrupts_moved();
  // The device's again, until the next start(). Before ActiveState ends.
  void stop();

 private:
  // Of a queue that is served: what is written for an interrupt where the transport lends nothing.
  struct Call {
    uint16_t queue = 0;
    Fd event;
  };
  ServedRing ring_of(uint16_t number, VirtQueue& queue) const;
  const Fd& interrupt_of(const Call& call) const;
  void listen();

  const std::string name_;
  EventLoop& loop_;
  // While they are served.
  RingService* service_ = nullptr;
  ActiveState* active_ = nullptr;
  std::vector<Call> calls_;
  LogLimiter log_limiter_;
};

}  // namespace trapeze
