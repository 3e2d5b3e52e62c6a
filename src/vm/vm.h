// Vm: a built machine and its life. Made by vm/builder.h.
//
// State     leaves on                                   to
// Built     start()                                     Running
// Running   the guest ends it (a device, a vCPU) or
//           request_end(); the first reason counts      Ending
// Ending    stop(): vCPU threads joined                 Stopped
//
// Threads: created, started, stopped and destroyed on the loop's thread, which is also that of the
// virtio devices. request_end() and the events of the guest come from any thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "accel/accel.h"
#include "backend/vsock/split_host.h"
#include "backend/vsock/unix_host.h"
#include "backend/vsock/vhost_vsock.h"
#include "base/event_loop.h"
#include "memory/guest_memory.h"
#include "virtio/balloon/device.h"
#include "virtio/console/device.h"
#include "virtio/rng/device.h"
#include "virtio/rng/host_entropy.h"
#include "virtio/transport/pci.h"
#include "virtio/vsock/device.h"
#include "vm/board.h"
#include "vm/disks.h"
#include "vm/nets.h"
#include "vm/pmems.h"
#include "vm/shares.h"
#include "vm/vcpu_thread.h"
#include "vm/vhost_user/devices.h"

namespace trapeze {

enum class EndReason : uint8_t {
  PoweredOff,
  Reset,
  DebugExit,    // `debug_status` says with what
  TripleFault,  // `detail` has the registers
  AccelError,   // `detail` says what
  Requested,    // request_end()
};

struct VmEnd {
  EndReason reason = EndReason::Requested;
  uint32_t debug_status = 0;
  std::string detail{};
};

class Vm final : private PowerEvents, private DebugExitEvents {
 public:
  // Stops it if need be.
  ~Vm() override;
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  // `on_end` is posted to the loop, once.
  void start(std::function<void()> on_end);
  // Any thread. Does not wait.
  void request_end(VmEnd end);
  // Waits for the vCPU threads; afterwards no guest code runs and the serial output is complete.
  void stop();
  // After on_end, or stop().
  VmEnd end() const;
  // After stop(): what the guest has sent to programs of the host that take it slowly is brought to
  // them while the loop runs. `on_done` is called once, maybe at once.
  void deliver_rest(std::function<void()> on_done);
  uint64_t undelivered_bytes() const;

  Serial& serial() { return board_->serial(); }
  GuestMemory& memory() { return *memory_; }
  BalloonDevice* balloon() { return balloon_.get(); }  // null: it has none
  const std::string& accel_name() const { return accel_name_; }
  const std::string& accel_reason() const { return accel_reason_; }  // why that one
  const std::string& boot_description() const { return boot_description_; }
  bool is_linux() const { return is_linux_; }
  uint64_t first_instruction_ns() const {
    return first_instruction_ns_.load(std::memory_order_acquire);
  }
  // CPU time of the process by then.
  uint64_t first_instruction_cpu_ns() const {
    return first_instruction_cpu_ns_.load(std::memory_order_acquire);
  }
  uint64_t instructions() const;
  // The accelerator's figures, those of the vCPUs added up; after stop().
  std::vector<Stat> stats() const;
  // Where the vCPUs stand, a line each; after stop().
  std::string describe_vcpus() const;

 private:
  friend class VmBuilder;
  explicit Vm(EventLoop& loop) : loop_(loop), timers_(loop, clock_) {}

  void power_off() override { request_end({.reason = EndReason::PoweredOff}); }
  void reset() override { request_end({.reason = EndReason::Reset}); }
  void debug_exit(uint32_t status) override {
    request_end({.reason = EndReason::DebugExit, .debug_status = status});
  }
  void vcpu_ended(VcpuId vcpu, ExitReason reason, std::string error);

  EventLoop& loop_;
  const HostClock clock_;
  DeviceTimers timers_;
  std::string accel_name_;
  std::string accel_reason_;
  std::string boot_description_;
  bool is_linux_ = false;
  // Destroyed from the last to the first: the vCPUs, then the board with its PCI root, then the
  // devices that sit on that root.
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<AccelVm> accel_;
  HostEntropy entropy_;
  std::unique_ptr<RngDevice> rng_;
  std::unique_ptr<VirtioPci> rng_pci_;
  std::unique_ptr<ConsoleDevice> console_;
  std::unique_ptr<VirtioPci> console_pci_;
  std::unique_ptr<BalloonDevice> balloon_;
  std::unique_ptr<VirtioPci> balloon_pci_;
  std::unique_ptr<UnixHost> vsock_host_;
  std::unique_ptr<UnixHost> agent_host_;
  std::unique_ptr<SplitHost> vsock_hosts_;
  std::unique_ptr<VhostVsock> vsock_service_;
  std::unique_ptr<VirtioDevice> vsock_;
  VsockDevice* own_vsock_ = nullptr;  // vsock_, where its streams end in this process
  std::unique_ptr<VirtioPci> vsock_pci_;
  std::unique_ptr<Pmems> pmems_;
  std::unique_ptr<Disks> disks_;
  std::unique_ptr<Nets> nets_;
  std::unique_ptr<Shares> shares_;
  std::unique_ptr<VhostUsers> vhost_users_;
  std::unique_ptr<Board> board_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;

  std::atomic<uint64_t> first_instruction_ns_{0};
  std::atomic<uint64_t> first_instruction_cpu_ns_{0};
  mutable std::mutex mutex_;
  std::optional<VmEnd> end_;      // guarded by mutex_
  std::function<void()> on_end_;  // guarded by mutex_
};

}  // namespace trapeze
