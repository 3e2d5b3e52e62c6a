#include "accel/kvm/split_chips.h"

#include <sys/ioctl.h>

#include <chrono>

#include "arch/x86/layout.h"
#include "base/log.h"

namespace trapeze::kvm {

std::optional<kvm_irq_routing_entry> redirection_route(uint32_t pin, uint64_t entry) {
  constexpr uint64_t kMasked = 1U << 16;
  if ((entry & kMasked) != 0) return std::nullopt;
  ApicMessage message;
  message.vector = static_cast<uint8_t>(entry);
  message.mode = static_cast<DeliveryMode>((entry >> 8) & 7U);
  message.logical = (entry & (1U << 11)) != 0;
  message.level_triggered = (entry & (1U << 15)) != 0;
  message.destination = static_cast<uint32_t>(entry >> 56);
  return msi_route(pin, to_msi(message));
}

SplitChips::SplitChips(const Fd& vm, RouteTable& routes, const Clock& clock,
                       std::function<void()> poke_bsp)
    : vm_(vm),
      routes_(routes),
      clock_(clock),
      poke_bsp_(std::move(poke_bsp)),
      chips_(clock, *this, *this),
      timer_("pit", [this] { run_timer(); }) {}

SplitChips::~SplitChips() {
  {
    const std::lock_guard lock(timer_mutex_);
    ending_ = true;
  }
  timer_changed_.notify_one();
  timer_.join();
}

bool SplitChips::mmio_read(Gpa gpa, Width width, uint64_t& value) {
  if (!layout::kIoApic.contains(gpa)) return false;
  value = chips_.ioapic_read(gpa - layout::kIoApic.start, width);
  return true;
}

bool SplitChips::mmio_write(Gpa gpa, Width width, uint64_t value) {
  if (!layout::kIoApic.contains(gpa)) return false;
  chips_.ioapic_write(gpa - layout::kIoApic.start, width, value);
  update_routes();
  return true;
}

bool SplitChips::pio_read(Port port, Width width, uint32_t& value) {
  if (!IrqChips::handles(port)) return false;
  value = chips_.pio_read(port, width);
  return true;
}

bool SplitChips::pio_write(Port port, Width width, uint32_t value) {
  if (!IrqChips::handles(port)) return false;
  chips_.pio_write(port, width, value);
  return true;
}

void SplitChips::restore(const IrqChipsState& state) {
  chips_.restore(state);
  update_routes();
}

void SplitChips::update_routes() {
  // Remote IRR (bit 14) and delivery status change by themselves and do not concern KVM.
  constexpr uint64_t kStatusBits = 1U << 12 | 1U << 14;
  const std::lock_guard lock(route_mutex_);
  auto redirection = chips_.save().ioapic.redirection;
  for (uint64_t& entry : redirection) entry &= ~kStatusBits;
  if (redirection == routed_) return;
  routed_ = redirection;
  std::vector<kvm_irq_routing_entry> wires;
  for (uint32_t pin = 0; pin < redirection.size(); ++pin) {
    if (const auto route = redirection_route(pin, redirection[pin])) wires.push_back(*route);
  }
  if (const auto set = routes_.set_wires(std::move(wires)); !set && warnings_.allow()) {
    log(LogLevel::Warning, "the I/O APIC's routes: {}", set.error().message);
  }
}

bool SplitChips::send(const ApicMessage& message) {
  const MsiMessage msi = to_msi(message);
  kvm_msi request{};
  request.address_lo = static_cast<uint32_t>(msi.address);
  request.address_hi = static_cast<uint32_t>(msi.address >> 32);
  request.data = msi.data;
  return ::ioctl(vm_.get(), KVM_SIGNAL_MSI, &request) > 0;
}

void SplitChips::pic_output_changed(bool asserted) {
  extint_.store(asserted, std::memory_order_release);
  if (asserted) poke_bsp_();
}

void SplitChips::deadline_changed() {
  {
    const std::lock_guard lock(timer_mutex_);
    timer_stale_ = true;
  }
  timer_changed_.notify_one();
}

void SplitChips::run_timer() {
  std::unique_lock lock(timer_mutex_);
  while (!ending_) {
    timer_stale_ = false;
    const auto deadline = chips_.next_deadline_ns();
    const uint64_t now = clock_.monotonic_ns();
    const auto has_news = [this] { return timer_stale_ || ending_; };
    if (!deadline) {
      timer_changed_.wait(lock, has_news);
    } else if (*deadline > now) {
      timer_changed_.wait_for(lock, std::chrono::nanoseconds(*deadline - now), has_news);
    } else {
      lock.unlock();  // it calls deadline_changed()
      chips_.run_timers(now);
      lock.lock();
    }
  }
}

}  // namespace trapeze::kvm
