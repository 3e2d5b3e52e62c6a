#include "vm/vcpu_thread.h"

#include <fmt/format.h>

namespace trapeze {

void VcpuThread::start(std::function<void()> before_first) {
  thread_ = Thread("vcpu" + std::to_string(id_.raw()), [this, first = std::move(before_first)] {
    if (first) first();
    run();
  });
}

void VcpuThread::run() {
  while (!stop_requested_.load(std::memory_order_acquire)) {
    const ExitReason reason = vcpu_->run();
    switch (reason) {
      case ExitReason::Kicked:
        break;
      case ExitReason::TripleFault:
      case ExitReason::AccelError:
        on_end_(id_, reason, reason == ExitReason::AccelError ? vcpu_->error() : describe());
        return;
    }
  }
}

std::string VcpuThread::describe() const {
  const VcpuState state = vcpu_->save();
  return fmt::format("rip {:#x}, rsp {:#x}, cr0 {:#x}, cr2 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x}",
                     state.rip, state.gpr[4], state.cr0, state.cr2, state.cr3, state.cr4,
                     state.efer);
}

void VcpuThread::request_stop() {
  // The flag first: a kick is never lost, so run() returns after it and sees the flag.
  stop_requested_.store(true, std::memory_order_release);
  vcpu_->kick();
}

void VcpuThread::stop() {
  if (!thread_.is_running()) return;
  request_stop();
  thread_.join();
}

}  // namespace trapeze
