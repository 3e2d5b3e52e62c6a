// ApicBus: finds the local APICs that a message means and delivers to them (SDM 3A 11.6.2).
// add() and remove() before the vCPUs run and after they stopped; send() from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "irq/chip/apic_message.h"
#include "irq/chip/lapic.h"

namespace trapeze {

class ApicBus final : public ApicMessageSink {
 public:
  // `lapic` must outlive the bus or be removed. APIC IDs are unique and at most 254.
  void add(Lapic& lapic);
  void remove(Lapic& lapic);
  bool send(const ApicMessage& message) override;
  bool send_msi(const MsiMessage& msi);  // what is no MSI address is ignored

 private:
  bool is_target(const Lapic& lapic, const ApicMessage& message) const;
  bool send_to_lowest(const ApicMessage& message);

  std::vector<Lapic*> lapics_;            // by APIC ID
  std::array<Lapic*, 256> by_id_{};       // physical unicast without a search
  std::atomic<uint32_t> next_lowest_{0};  // where arbitration among equals starts
};

}  // namespace trapeze
