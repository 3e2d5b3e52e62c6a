#include "accel/kvm/routes.h"

#include "accel/kvm/ioctl.h"
#include "accel/kvm/uapi.h"

namespace trapeze::kvm {
namespace {

constexpr uint32_t kPitGsi = 2;  // ISA IRQ 0 is wired to I/O APIC pin 2
constexpr uint32_t kCascade = 2;

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
