#include "accel/kvm/routes.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "accel/kvm/ioctl.h"
#include "accel/kvm/uapi.h"
#include "base/event_fd.h"

namespace trapeze::kvm {
namespace {

constexpr uint32_t kPitGsi = 2;  // ISA IRQ 0 is wired to I/O APIC pin 2
constexpr uint32_t kCascade = 2;

// Its route and its eventfd live as long as it.
class Irqfd final : public MsiEvent {
 public:
  Irqfd(const Fd& vm, RouteTable& routes, Gsi gsi, Fd event)
      : vm_(vm), routes_(routes), gsi_(gsi), event_(std::move(event)) {}
  ~Irqfd() override {
    if (is_bound_) bind(KVM_IRQFD_FLAG_DEASSIGN);
    routes_.remove_msi(gsi_);
  }

  bool set(const MsiMessage& message) override {
    // Most messages are what the last one was; the table is written only when it changes.
    if (is_bound_ && message == message_) return true;
    if (!routes_.set_msi(gsi_, message)) return false;
    message_ = message;
    if (!is_bound_) is_bound_ = bind(0);
    return is_bound_;
  }
  // The kernel looks at the counter when it is bound again.
  void hold() override {
    if (is_bound_) bind(KVM_IRQFD_FLAG_DEASSIGN);
    is_bound_ = false;
  }
  void signal() override { signal_event(event_); }
  const Fd& event() const override { return event_; }

 private:
  bool bind(uint32_t flags) {
    kvm_irqfd request{};
    request.fd = static_cast<uint32_t>(event_.get());
    request.gsi = gsi_.raw();
    request.flags = flags;
    return ::ioctl(vm_.get(), KVM_IRQFD, &request) == 0;
  }

  const Fd& vm_;
  RouteTable& routes_;
  const Gsi gsi_;
  const Fd event_;
  MsiMessage message_;
  bool is_bound_ = false;
};

kvm_irq_routing_entry chip_route(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip.irqchip = chip;
  entry.u.irqchip.pin = pin;
  return entry;
}

}  // namespace

std::vector<kvm_irq_routing_entry> kernel_chip_routes() {
  std::vector<kvm_irq_routing_entry> routes;
  // KVM's 8254 raises IRQ 0.
  routes.push_back(chip_route(0, KVM_IRQCHIP_PIC_MASTER, 0));
  routes.push_back(chip_route(0, KVM_IRQCHIP_IOAPIC, kPitGsi));
  for (uint32_t gsi = 1; gsi < kWires; ++gsi) {
    if (gsi == kCascade) continue;
    if (gsi < 8) routes.push_back(chip_route(gsi, KVM_IRQCHIP_PIC_MASTER, gsi));
    if (gsi >= 8 && gsi < 16) routes.push_back(chip_route(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8));
    routes.push_back(chip_route(gsi, KVM_IRQCHIP_IOAPIC, gsi));
  }
  return routes;
}

kvm_irq_routing_entry msi_route(uint32_t gsi, const MsiMessage& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<uint32_t>(message.address >> 32);
  entry.u.msi.data = message.data;
  return entry;
}

std::unique_ptr<MsiEvent> create_irqfd(const Fd& vm, RouteTable& routes) {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.is_open()) return nullptr;
  const auto gsi = routes.add_msi();
  if (!gsi) return nullptr;
  return std::make_unique<Irqfd>(vm, routes, *gsi, std::move(event));
}

Result<void> RouteTable::set_wires(std::vector<kvm_irq_routing_entry> wires) {
  const std::lock_guard lock(mutex_);
  wires_ = std::move(wires);
  return apply();
}

Result<Gsi> RouteTable::add_msi() {
  const std::lock_guard lock(mutex_);
  // The wires take up to two entries each.
  for (uint32_t gsi = kWires; gsi + kWires < limit_; ++gsi) {
    if (!msis_.contains(gsi)) {
      msis_[gsi] = std::nullopt;
      return Gsi(gsi);
    }
  }
  return fail("all {} interrupt routes of KVM are in use", limit_);
}

Result<void> RouteTable::set_msi(Gsi gsi, const MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  auto& entry = msis_[gsi.raw()];
  if (entry == message) return {};
  entry = message;
  return apply();
}

void RouteTable::remove_msi(Gsi gsi) {
  const std::lock_guard lock(mutex_);
  msis_.erase(gsi.raw());
}

Result<void> RouteTable::apply() {
  std::vector<kvm_irq_routing_entry> entries = wires_;
  for (const auto& [gsi, message] : msis_) {
    if (message) entries.push_back(msi_route(gsi, *message));
  }
  RoutingTable table{std::span<const kvm_irq_routing_entry>(entries)};
  TRY(kvm_ioctl(vm_, kSetGsiRouting, "KVM_SET_GSI_ROUTING", table.header()));
  return {};
}

}  // namespace trapeze::kvm
