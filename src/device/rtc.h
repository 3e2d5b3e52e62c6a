// Rtc: MC146818 clock and CMOS memory at ports 0x70 and 0x71, GSI 8. The time is the host's plus
// what the guest has set; nothing runs between accesses but the interrupts that the guest enabled.
//
// Any thread; one mutex, held while the IrqLine and the TimerHost are called.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "device/byte_device.h"
#include "device/timed_device.h"
#include "irq/interrupt_sink.h"

namespace trapeze {

struct RtcConfig {
  uint64_t ram_size_bytes = 0;  // for the memory size bytes that old boot code reads
  uint32_t vcpus = 1;
};

struct RtcState {
  std::array<uint8_t, 128> cmos{};
  uint8_t index = 0;
  bool nmi_masked = false;
  int64_t offset_ns = 0;  // the guest's time minus the host's
  bool operator==(const RtcState&) const = default;
};

class Rtc final : public ByteDevice, public TimedDevice {
 public:
  static constexpr uint32_t kPorts = 2;

  // `clock` and `timers` must outlive this.
  Rtc(const RtcConfig& config, const Clock& clock, IrqLine irq, TimerHost& timers);

  std::optional<uint64_t> next_deadline_ns() const override;
  void run_timers() override;

  RtcState save() const;
  void restore(const RtcState& state);

 protected:
  uint8_t read_byte(uint64_t offset) override;
  void write_byte(uint64_t offset, uint8_t value) override;

 private:
  void fill_memory_size(const RtcConfig& config);
  uint8_t read_cmos();
  void write_cmos(uint8_t value);
  bool is_stopped() const;
  int64_t guest_ns() const;
  uint64_t periodic_ticks(uint64_t monotonic_ns) const;
  unsigned periodic_shift() const;
  uint8_t encode(unsigned value) const;
  unsigned decode(uint8_t value) const;
  uint8_t encode_hour(unsigned hour) const;
  unsigned decode_hour(uint8_t value) const;
  void registers_from_time();
  void time_from_registers();
  std::optional<int64_t> next_alarm_after(int64_t second) const;
  void advance();
  void update_irq();
  std::optional<uint64_t> compute_deadline() const;
  void restart_events();

  const Clock& clock_;
  const IrqLine irq_;
  TimerHost& timers_;
  mutable std::mutex mutex_;
  RtcState state_;  // guarded by mutex_, like all below
  int64_t seen_second_ = 0;
  uint64_t seen_ticks_ = 0;
  bool irq_level_ = false;
  std::optional<uint64_t> deadline_ns_;
};

}  // namespace trapeze
