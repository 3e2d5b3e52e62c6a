// What the tests of the local APIC share: a host that records its callbacks, and one APIC on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "irq/chip/lapic.h"
#include "irq/chip/lapic_registers.h"

namespace trapeze {

// The guest TSC counts nanoseconds from `tsc_zero_ns`.
class FakeLapicHost final : public LapicHost {
 public:
  void send_ipi(const ApicMessage& message) override { ipis.push_back(message); }
  void wake() override { wakes.fetch_add(1, std::memory_order_relaxed); }
  void timer_changed(std::optional<uint64_t> deadline_ns) override {
    deadline = deadline_ns;
    ++timer_changes;
  }
  void broadcast_eoi(uint8_t vector) override { eois.push_back(vector); }
  uint64_t tsc_to_ns(uint64_t tsc) override { return tsc + tsc_zero_ns; }

  std::vector<ApicMessage> ipis;
  std::vector<uint8_t> eois;
  std::optional<uint64_t> deadline;
  int timer_changes = 0;
  uint64_t tsc_zero_ns = 0;
  std::atomic<int> wakes{0};
};

struct LapicFixture {
  explicit LapicFixture(LapicConfig config = {.id = VcpuId(3)}) : lapic(config, clock, host) {
    clock.now_ns = 1'000'000;
  }
  void enable() { lapic.mmio_write(apic_reg::kSpurious, 0x1ff); }
  void enable_x2apic() {
    lapic.set_apic_base(lapic.apic_base() | kApicBaseX2apic);
    lapic.msr_write(msr(apic_reg::kSpurious), 0x1ff);
  }
  static constexpr uint32_t msr(uint32_t offset) { return apic_reg::kMsrBase + (offset >> 4); }
  bool deliver(uint8_t vector, bool level = false) {
    return lapic.deliver({.vector = vector, .level_triggered = level});
  }
  uint32_t read(uint32_t offset) { return lapic.mmio_read(offset); }
  void write(uint32_t offset, uint32_t value) { lapic.mmio_write(offset, value); }
  bool has_vector(uint32_t bank, uint8_t vector) {
    return (lapic.mmio_read(bank + (vector >> 5) * 0x10U) >> (vector & 31U) & 1U) != 0;
  }
  uint32_t errors() {  // SDM 3A 11.5.3: a write makes the collected errors readable
    write(apic_reg::kEsr, 0);
    return read(apic_reg::kEsr);
  }

  FakeClock clock;
  FakeLapicHost host;
  Lapic lapic;
};

}  // namespace trapeze
