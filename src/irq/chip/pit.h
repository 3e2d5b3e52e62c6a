// Pit: the 8254 interval timer (ports 0x40..0x43) and port 0x61, which gates channel 2 and shows
// its output. Counts are computed from the time that the caller passes in; there is no thread.
// Not thread-safe: IrqChips locks. Channel 0 drives IRQ 0, channel 1 (refresh) shows only in bit 4
// of port 0x61, channel 2 would drive the speaker.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/strong.h"

namespace trapeze {

inline constexpr uint64_t kPitHz = 1'193'182;
// Channel 0 asks for attention at most this often (KVM does the same): a guest that programs a
// period of a few ticks must not keep a host core busy. Counts read as programmed.
inline constexpr uint64_t kPitMinPeriodNs = 200'000;

enum class PitAccess : uint8_t { Latch = 0, Low = 1, High = 2, LowHigh = 3 };

// One counter. Ticks are periods of kPitHz counted from CLOCK_MONOTONIC 0, except in a saved state,
// where they are relative to the moment of saving (see Pit::save).
struct PitChannelState {
  uint8_t mode = 0;  // 0..5
  bool bcd = false;
  PitAccess access = PitAccess::LowHigh;
  bool gate = true;
  bool loaded = false;           // a whole count was written since the control word
  bool triggered = false;        // modes 1 and 5: the gate rose since then
  bool write_high_next = false;  // LowHigh: write_low holds the low byte
  uint8_t write_low = 0;
  bool read_high_next = false;
  bool count_latched = false;
  bool status_latched = false;
  uint8_t status_latch = 0;
  uint16_t count_latch = 0;
  uint32_t count = 0x10000;     // reload value in ticks, 1..0x10000
  uint32_t next_count = 0;      // replaces `count` at the next reload; 0: none
  uint64_t start_tick = 0;      // when the counter was loaded; saved: ticks since then
  uint64_t switch_tick = 0;     // modes 2 and 3: when next_count comes in; saved: ticks until then
  uint64_t halted_elapsed = 0;  // ticks counted when the gate fell
  bool operator==(const PitChannelState&) const = default;
};

struct PitState {
  std::array<PitChannelState, 3> channels{};
  uint8_t port61 = 0;         // bits 0..3 as written
  uint64_t edges_seen = 0;    // channel 0: rising edges reported since it was loaded
  uint64_t last_edge_ns = 0;  // when poll() reported the last one; saved: ns since then
  bool edge_owed = false;     // channel 0: a period ended at a switch of counts, not yet reported
  bool line = false;          // channel 0's output as last reported
  bool operator==(const PitState&) const = default;
};

class Pit {
 public:
  static bool handles(Port port);
  uint8_t read(Port port, uint64_t now_ns);
  void write(Port port, uint8_t value, uint64_t now_ns);

  // Channel 0's output since the last call.
  struct Output {
    bool edge = false;     // it rose at least once
    bool level = false;    // as it is now
    bool changed = false;  // `level` differs from the last call's
  };
  // To be called before and after every write, and when next_deadline_ns() has passed.
  Output poll(uint64_t now_ns);
  // When the output rises next.
  std::optional<uint64_t> next_deadline_ns() const;

  void reset(uint64_t now_ns);
  // Times in the state are relative to `now_ns`, so that a restored timer goes on where it was.
  PitState save(uint64_t now_ns) const;
  void restore(const PitState& state, uint64_t now_ns);

 private:
  void write_control(uint8_t value, uint64_t tick);
  void write_count(unsigned index, uint8_t value, uint64_t tick);
  void write_port61(uint8_t value, uint64_t tick);
  void read_back(uint8_t command, uint64_t tick);
  uint64_t edges_until(uint64_t tick) const;
  void settle_channel(unsigned index, uint64_t tick);

  PitState state_;
};

}  // namespace trapeze
