#include "vm/vm.h"

#include <time.h>

#include <algorithm>
#include <utility>

namespace trapeze {
namespace {

uint64_t process_cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Vm::~Vm() { stop(); }

void Vm::start(std::function<void()> on_end) {
  {
    const std::lock_guard lock(mutex_);
    on_end_ = std::move(on_end);
  }
  if (disks_ != nullptr) disks_->commit();
  // The bootstrap processor last: the others are in wait-for-SIPI by then.
  for (size_t i = vcpus_.size(); i-- > 1;) vcpus_[i]->start({});
  vcpus_[0]->start([this] {
    first_instruction_ns_.store(clock_.monotonic_ns(), std::memory_order_release);
    first_instruction_cpu_ns_.store(process_cpu_ns(), std::memory_order_release);
  });
}

void Vm::request_end(VmEnd end) {
  std::function<void()> on_end;
  {
    const std::lock_guard lock(mutex_);
    if (end_) return;
    end_ = std::move(end);
    on_end = std::move(on_end_);
  }
  // vCPUs that run on for a moment can do no harm to who waits; but an ended machine shall cost
  // nothing, so all are told at once.
  for (const auto& vcpu : vcpus_) vcpu->request_stop();
  if (on_end) loop_.post(std::move(on_end));
}

void Vm::stop() {
  request_end({.reason = EndReason::Requested});
  for (const auto& vcpu : vcpus_) vcpu->stop();
  if (board_ != nullptr) board_->flush_serial();
}

VmEnd Vm::end() const {
  const std::lock_guard lock(mutex_);
  return end_.value_or(VmEnd{});
}

void Vm::deliver_rest(std::function<void()> on_done) {
  if (own_vsock_ == nullptr) return on_done();
  own_vsock_->finish(std::move(on_done));
}

uint64_t Vm::undelivered_bytes() const {
  return own_vsock_ == nullptr ? 0 : own_vsock_->undelivered_bytes();
}

void Vm::vcpu_ended(VcpuId vcpu, ExitReason reason, std::string error) {
  std::string detail = fmt::format("vCPU {}: {}", vcpu.raw(), error);
  request_end(
      {.reason = reason == ExitReason::TripleFault ? EndReason::TripleFault : EndReason::AccelError,
       .detail = std::move(detail)});
}

std::string Vm::describe_vcpus() const {
  std::string text;
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    text += fmt::format("{}vCPU {}: {}", i == 0 ? "" : "\n", i, vcpus_[i]->describe());
  }
  return text;
}

std::vector<Stat> Vm::stats() const {
  std::vector<Stat> sums = accel_->stats();
  for (const auto& vcpu : vcpus_) {
    for (Stat& stat : vcpu->stats()) {
      const auto same = std::find_if(sums.begin(), sums.end(),
                                     [&](const Stat& sum) { return sum.name == stat.name; });
      if (same == sums.end()) {
        sums.push_back(std::move(stat));
      } else {
        same->value += stat.value;
      }
    }
  }
  return sums;
}

uint64_t Vm::instructions() const {
  uint64_t sum = 0;
  for (const auto& vcpu : vcpus_) sum += vcpu->instructions();
  return sum;
}

}  // namespace trapeze
