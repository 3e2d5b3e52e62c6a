// VcpuThread: one vCPU and the host thread that runs it.
//
// State     leaves on                        to
// Created   start()                          Running
// Running   stop() / run() says it is over   Stopped
//
// start(), stop() and the destructor by the VM's owner; request_stop() and instructions() from any
// thread. The AccelVcpu is created and run on the thread that the state machine says: nobody
// touches it while Running but by kick().
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "base/thread.h"

namespace trapeze {

class VcpuThread {
 public:
  // Told on the vCPU's thread when the guest cannot go on: its last call there.
  using EndHandler = std::function<void(VcpuId vcpu, ExitReason reason, std::string error)>;

  VcpuThread(VcpuId id, std::unique_ptr<AccelVcpu> vcpu, EndHandler on_end)
      : id_(id), vcpu_(std::move(vcpu)), on_end_(std::move(on_end)) {}
  ~VcpuThread() { stop(); }
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  // `before_first` runs on the new thread, right before the first guest instruction.
  void start(std::function<void()> before_first);
  void request_stop();  // returns at once
  void stop();          // waits until the thread has ended
  // Where it stands, for a message; only while it does not run.
  std::string describe() const;
  uint64_t instructions() const { return vcpu_->instructions(); }
  // Only while it does not run.
  std::vector<Stat> stats() const { return vcpu_->stats(); }

 private:
  void run();

  const VcpuId id_;
  const std::unique_ptr<AccelVcpu> vcpu_;
  const EndHandler on_end_;
  std::atomic<bool> stop_requested_{false};  // release in request_stop(), acquire in run()
  Thread thread_;
};

}  // namespace trapeze
