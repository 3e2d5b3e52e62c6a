// DeviceTimers: calls TimedDevices when their deadlines pass, on an EventLoop.
//
// add() before the VM runs. deadline_changed() from any thread; the rest on the loop's thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/event_loop.h"
#include "device/timed_device.h"

namespace trapeze {

class DeviceTimers final : public TimerHost {
 public:
  // Both must outlive this.
  DeviceTimers(EventLoop& loop, const Clock& clock) : loop_(loop), clock_(clock) {}
  // The loop may run on, but no device may call any more.
  ~DeviceTimers() override;

  void add(TimedDevice& device) { devices_.push_back(&device); }
  void deadline_changed() override;

 private:
  void rearm();
  void expire();

  EventLoop& loop_;
  const Clock& clock_;
  std::vector<TimedDevice*> devices_;
  std::atomic<bool> rearm_posted_{false};  // release in rearm(), acquire in deadline_changed()
  std::optional<EventLoop::TimerId> timer_;
  // Tasks that the loop still holds when this is gone see it by their copy.
  std::shared_ptr<DeviceTimers*> self_ = std::make_shared<DeviceTimers*>(this);
};

}  // namespace trapeze
