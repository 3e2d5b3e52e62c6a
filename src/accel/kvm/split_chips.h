// SplitChips: I/O APIC, 8259s and 8254 in this process, in front of KVM's local APICs. KVM is told
// by its routing table for which vectors it must report the EOI.
//
// Threads: any; IrqChips locks. A thread of its own waits for the 8254's deadlines.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>

#include "accel/kvm/routes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "irq/chip/irq_chips.h"
#include "memory/guest_addr.h"

namespace trapeze::kvm {

class SplitChips final : private ApicMessageSink, private IrqChipsHost {
 public:
  // `poke_bsp` makes vCPU 0 look at extint_pending(); any thread. All must outlive this.
  SplitChips(const Fd& vm, RouteTable& routes, const Clock& clock, std::function<void()> poke_bsp);
  ~SplitChips() override;

  void set_irq_level(Gsi gsi, bool asserted) { chips_.set_irq_level(gsi, asserted); }
  void eoi(uint8_t vector) { chips_.eoi(vector); }
  // The 8259s ask; the vector is taken by acknowledge().
  bool extint_pending() const { return extint_.load(std::memory_order_acquire); }
  uint8_t acknowledge() { return chips_.acknowledge_pic(); }

  // False: not ours.
  bool mmio_read(Gpa gpa, Width width, uint64_t& value);
  bool mmio_write(Gpa gpa, Width width, uint64_t value);
  bool pio_read(Port port, Width width, uint32_t& value);
  bool pio_write(Port port, Width width, uint32_t value);

  IrqChipsState save() const { return chips_.save(); }
  void restore(const IrqChipsState& state);

 private:
  bool send(const ApicMessage& message) override;
  void pic_output_changed(bool asserted) override;
  void deadline_changed() override;
  void update_routes();
  void run_timer();

  const Fd& vm_;
  RouteTable& routes_;
  const Clock& clock_;
  const std::function<void()> poke_bsp_;
  std::atomic<bool> extint_{false};  // release in pic_output_changed, acquire by vCPU 0
  std::mutex route_mutex_;
  LogLimiter warnings_{1};
  std::array<uint64_t, IoApicState::kPins> routed_{};  // guarded by route_mutex_
  std::mutex timer_mutex_;
  std::condition_variable timer_changed_;
  bool timer_stale_ = false;  // guarded by timer_mutex_
  bool ending_ = false;       // guarded by timer_mutex_
  IrqChips chips_;
  Thread timer_;  // last: it uses all the above
};

// The routing entry that makes KVM report the EOI of this redirection entry; none while masked.
std::optional<kvm_irq_routing_entry> redirection_route(uint32_t pin, uint64_t entry);

}  // namespace trapeze::kvm
