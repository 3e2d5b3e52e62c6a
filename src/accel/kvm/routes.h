// RouteTable: the GSI routing table of one VM (KVM_SET_GSI_ROUTING replaces it as a whole).
// GSIs 0 to 23 are the board's wires, those above belong to message-signalled interrupts by irqfd.
// Any thread; a leaf lock.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "base/strong.h"
#include "irq/interrupt_sink.h"

namespace trapeze::kvm {

inline constexpr uint32_t kWires = 24;

// The wires of an in-kernel irqchip: docs/memory-map.md, "Interrupts".
std::vector<kvm_irq_routing_entry> kernel_chip_routes();
kvm_irq_routing_entry msi_route(uint32_t gsi, const MsiMessage& message);

// One message as an irqfd. Null when an eventfd or a route cannot be had.
class RouteTable;
std::unique_ptr<MsiEvent> create_irqfd(const Fd& vm, RouteTable& routes);

class RouteTable {
 public:
  // `vm` must outlive the table. `limit`: KVM_CAP_IRQ_ROUTING.
  RouteTable(const Fd& vm, uint32_t limit) : vm_(vm), limit_(limit) {}

  Result<void> set_wires(std::vector<kvm_irq_routing_entry> wires);
  Result<Gsi> add_msi();
  Result<void> set_msi(Gsi gsi, const MsiMessage& message);
  void remove_msi(Gsi gsi);

 private:
  Result<void> apply();

  const Fd& vm_;
  const uint32_t limit_;
  std::mutex mutex_;
  std::vector<kvm_irq_routing_entry> wires_;            // guarded by mutex_
  std::map<uint32_t, std::optional<MsiMessage>> msis_;  // guarded by mutex_
};

}  // namespace trapeze::kvm
