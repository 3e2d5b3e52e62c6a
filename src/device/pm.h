// PowerManagement: the ACPI registers at layout::kPowerManagement that arch/x86/acpi/pm_registers.h
// names: sleep control and status, reset, PM timer. Any thread.
#pragma once

#include <atomic>
#include <cstdint>

#include "arch/x86/acpi/pm_registers.h"
#include "base/clock.h"
#include "bus/io_device.h"
#include "device/power_events.h"

namespace trapeze {

struct PmState {
  uint8_t sleep_control = 0;
  uint32_t timer = 0;  // value of the PM timer, which goes on from there after a restore
  bool operator==(const PmState&) const = default;
};

class PowerManagement final : public IoDevice {
 public:
  static constexpr uint32_t kPorts = acpi::kPmPorts;

  // Both must outlive this.
  PowerManagement(const Clock& clock, PowerEvents& power) : clock_(clock), power_(power) {}

  uint64_t read(uint64_t offset, Width width) override;
  void write(uint64_t offset, Width width, uint64_t value) override;

  PmState save() const;
  void restore(const PmState& state);

 private:
  uint8_t read_byte(uint64_t offset, uint32_t timer) const;
  void write_byte(uint64_t offset, uint8_t value);
  uint32_t host_ticks() const;
  uint32_t timer() const;

  const Clock& clock_;
  PowerEvents& power_;
  // Independent values, no order between them: relaxed.
  std::atomic<uint8_t> sleep_control_{0};
  std::atomic<uint32_t> timer_offset_{0};
};

}  // namespace trapeze
