#include "irq/chip/pit.h"

#include <algorithm>

namespace trapeze {

namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;
constexpr uint64_t kRefreshToggleNs = 15'085;  // channel 1 of a PC: 18 ticks
constexpr uint16_t kChannel0 = 0x40;
constexpr uint16_t kControl = 0x43;
constexpr uint16_t kPort61 = 0x61;
constexpr uint8_t kPort61Gate2 = 1 << 0;
constexpr uint8_t kPort61Writable = 0x0f;
constexpr uint8_t kPort61Refresh = 1 << 4;
constexpr uint8_t kPort61Output2 = 1 << 5;
constexpr uint8_t kReadBack = 3;  // in the channel field of the control word

uint64_t tick_at(uint64_t now_ns) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(now_ns) * kPitHz / kNsPerSecond);
}
// Rounded up: at that time the tick has come.
uint64_t ns_of(uint64_t tick) {
  const auto ns = (static_cast<unsigned __int128>(tick) * kNsPerSecond + kPitHz - 1) / kPitHz;
  return ns > ~uint64_t{0} ? ~uint64_t{0} : static_cast<uint64_t>(ns);
}

uint32_t from_bcd(uint32_t value) {
  return (value & 15U) + 10 * ((value >> 4) & 15U) + 100 * ((value >> 8) & 15U) +
         1000 * ((value >> 12) & 15U);
}
uint16_t to_bcd(uint32_t value) {
  return static_cast<uint16_t>(value % 10 | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 |
                               (value / 1000 % 10) << 12);
}

// Modes of the 8254 (datasheet, "Mode Definitions"): 0 interrupt on terminal count, 1 one-shot,
// 2 rate generator, 3 square wave, 4 software strobe, 5 hardware strobe.
bool is_periodic(const PitChannelState& channel) { return channel.mode == 2 || channel.mode == 3; }
bool is_gate_triggered(const PitChannelState& channel) {
  return channel.mode == 1 || channel.mode == 5;
}
bool is_counting(const PitChannelState& channel) {
  return channel.loaded && (is_gate_triggered(channel) ? channel.triggered : channel.gate);
}

uint64_t elapsed_at(const PitChannelState& channel, uint64_t tick) {
  if (!channel.gate && !is_gate_triggered(channel)) return channel.halted_elapsed;
  return tick > channel.start_tick ? tick - channel.start_tick : 0;
}

// A count written to a running rate generator comes in at the end of its period.
void settle(PitChannelState& channel, uint64_t tick) {
  if (!is_periodic(channel) || channel.next_count == 0 || !channel.gate) return;
  if (tick < channel.switch_tick) return;
  channel.start_tick = channel.switch_tick;
  channel.count = channel.next_count;
  channel.next_count = 0;
}

bool output_at(const PitChannelState& channel, uint64_t tick) {
  const uint64_t elapsed = elapsed_at(channel, tick);
  switch (channel.mode) {
    case 0:
      return channel.loaded && elapsed >= channel.count;
    case 1:
      return !is_counting(channel) || elapsed >= channel.count;
    case 2:
      return !is_counting(channel) || elapsed % channel.count != channel.count - 1;
    case 3:
      return !is_counting(channel) || elapsed % channel.count < (channel.count + 1) / 2;
    default:  // 4 and 5: low for one tick
      return !is_counting(channel) || elapsed != channel.count;
  }
}

uint16_t count_at(const PitChannelState& channel, uint64_t tick) {
  if (!channel.loaded) return 0;
  const uint64_t elapsed =
      is_gate_triggered(channel) && !channel.triggered ? 0 : elapsed_at(channel, tick);
  const uint64_t modulus = channel.bcd ? 10'000 : 0x10000;
  uint64_t value = 0;
  switch (channel.mode) {
    case 2:
      value = channel.count - elapsed % channel.count;
      break;
    case 3:  // counts down by two, twice a period
      value = (channel.count - 2 * (elapsed % channel.count) % channel.count) & ~uint64_t{1};
      break;
    default:  // goes on below 0
      value = channel.count % modulus + modulus - elapsed % modulus;
      break;
  }
  value %= modulus;
  return channel.bcd ? to_bcd(static_cast<uint32_t>(value)) : static_cast<uint16_t>(value);
}

void load(PitChannelState& channel, uint32_t raw, uint64_t tick) {
  uint32_t count = channel.bcd ? from_bcd(raw) : raw;
  if (count == 0) count = channel.bcd ? 10'000 : 0x10000;
  if (is_periodic(channel) && channel.loaded && channel.gate) {
    channel.next_count = count;
    channel.switch_tick =
        channel.start_tick + (elapsed_at(channel, tick) / channel.count + 1) * channel.count;
    return;
  }
  if (is_gate_triggered(channel) && channel.triggered) {
    channel.next_count = count;  // for the next trigger
    return;
  }
  channel.count = count;
  channel.next_count = 0;
  channel.start_tick = tick;
  channel.halted_elapsed = 0;
  channel.loaded = true;
}

void set_gate(PitChannelState& channel, bool gate, uint64_t tick) {
  if (gate == channel.gate) return;
  settle(channel, tick);
  if (!gate) {
    channel.halted_elapsed = elapsed_at(channel, tick);
    channel.gate = false;
    return;
  }
  channel.gate = true;
  if (!is_periodic(channel) && !is_gate_triggered(channel)) {
    channel.start_tick = tick - std::min(tick, channel.halted_elapsed);  // goes on
    return;
  }
  // The rising edge reloads.
  channel.start_tick = tick;
  channel.triggered = channel.loaded;
  if (channel.next_count != 0) channel.count = channel.next_count;
  channel.next_count = 0;
}

uint8_t status_at(const PitChannelState& channel, uint64_t tick) {
  const bool null_count = !channel.loaded || channel.next_count != 0;
  return static_cast<uint8_t>((output_at(channel, tick) ? 0x80U : 0U) | (null_count ? 0x40U : 0U) |
                              static_cast<unsigned>(channel.access) << 4 |
                              unsigned{channel.mode} << 1 | (channel.bcd ? 1U : 0U));
}

void latch_count(PitChannelState& channel, uint64_t tick) {
  if (channel.count_latched) return;  // until it is read (datasheet, "Counter Latch Command")
  channel.count_latched = true;
  channel.read_high_next = false;
  channel.count_latch = count_at(channel, tick);
}

// `channel` is settled.
uint8_t read_channel(PitChannelState& channel, uint64_t tick) {
  if (channel.status_latched) {
    channel.status_latched = false;
    return channel.status_latch;
  }
  const uint16_t count = channel.count_latched ? channel.count_latch : count_at(channel, tick);
  const bool both = channel.access == PitAccess::LowHigh;
  const bool high = both ? channel.read_high_next : channel.access == PitAccess::High;
  if (both) channel.read_high_next = !channel.read_high_next;
  if (!both || high) channel.count_latched = false;
  return static_cast<uint8_t>(high ? count >> 8 : count);
}

}  // namespace

bool Pit::handles(Port port) {
  return (port.raw() >= kChannel0 && port.raw() <= kControl) || port.raw() == kPort61;
}

uint8_t Pit::read(Port port, uint64_t now_ns) {
  const uint64_t tick = tick_at(now_ns);
  if (port.raw() == kPort61) {
    settle_channel(2, tick);
    const PitChannelState& speaker = state_.channels[2];
    const bool refresh = (now_ns / kRefreshToggleNs & 1U) != 0;
    return static_cast<uint8_t>(state_.port61 | (refresh ? kPort61Refresh : 0) |
                                (output_at(speaker, tick) ? kPort61Output2 : 0));
  }
  if (port.raw() < kChannel0 || port.raw() >= kControl) return 0xff;  // control is write-only
  const unsigned index = port.raw() - unsigned{kChannel0};
  settle_channel(index, tick);
  return read_channel(state_.channels[index], tick);
}

void Pit::write(Port port, uint8_t value, uint64_t now_ns) {
  const uint64_t tick = tick_at(now_ns);
  if (port.raw() == kPort61) {
    write_port61(value, tick);
  } else if (port.raw() == kControl) {
    write_control(value, tick);
  } else if (port.raw() >= kChannel0 && port.raw() < kControl) {
    write_count(port.raw() - unsigned{kChannel0}, value, tick);
  }
}

void Pit::write_port61(uint8_t value, uint64_t tick) {
  state_.port61 = value & kPort61Writable;
  set_gate(state_.channels[2], (value & kPort61Gate2) != 0, tick);
}

void Pit::write_control(uint8_t value, uint64_t tick) {
  const unsigned index = value >> 6;
  if (index == kReadBack) return read_back(value, tick);
  settle_channel(index, tick);
  PitChannelState& channel = state_.channels[index];
  const auto access = static_cast<PitAccess>((value >> 4) & 3U);
  if (access == PitAccess::Latch) return latch_count(channel, tick);
  // A control word starts afresh: nothing counts until a whole count is written.
  PitChannelState fresh;
  fresh.gate = channel.gate;
  fresh.access = access;
  fresh.mode = (value >> 1) & 7U;
  if (fresh.mode > 5) fresh.mode = static_cast<uint8_t>(fresh.mode - 4);  // bit 2 is "don't care"
  fresh.bcd = (value & 1U) != 0;
  fresh.start_tick = tick;
  channel = fresh;
  if (index == 0) state_.edges_seen = 0;
}

void Pit::read_back(uint8_t command, uint64_t tick) {
  for (unsigned i = 0; i < state_.channels.size(); ++i) {
    if ((command & 2U << i) == 0) continue;
    settle_channel(i, tick);
    PitChannelState& channel = state_.channels[i];
    if ((command & 0x20U) == 0) latch_count(channel, tick);
    if ((command & 0x10U) == 0 && !channel.status_latched) {
      channel.status_latched = true;
      channel.status_latch = status_at(channel, tick);
    }
  }
}

void Pit::write_count(unsigned index, uint8_t value, uint64_t tick) {
  settle_channel(index, tick);
  PitChannelState& channel = state_.channels[index];
  uint32_t raw = value;
  switch (channel.access) {
    case PitAccess::Low:
      break;
    case PitAccess::High:
      raw = uint32_t{value} << 8;
      break;
    case PitAccess::LowHigh:
    case PitAccess::Latch:
      channel.write_high_next = !channel.write_high_next;
      if (channel.write_high_next) {
        channel.write_low = value;
        // In mode 0, the first byte stops the counter and its output falls (datasheet, "Mode 0").
        if (channel.mode == 0) channel.loaded = false;
        return;
      }
      raw = uint32_t{value} << 8 | channel.write_low;
      break;
  }
  load(channel, raw, tick);
  if (index == 0 && channel.next_count == 0) state_.edges_seen = 0;
}

// Rising edges of channel 0 since it was loaded. Its gate is tied high, so modes 1 and 5 never run.
uint64_t Pit::edges_until(uint64_t tick) const {
  const PitChannelState& channel = state_.channels[0];
  if (!is_counting(channel)) return 0;
  const uint64_t elapsed = elapsed_at(channel, tick);
  if (is_periodic(channel)) return elapsed / channel.count;
  const uint64_t rise = channel.mode == 0 ? channel.count : channel.count + 1;
  return elapsed >= rise ? 1 : 0;
}

void Pit::settle_channel(unsigned index, uint64_t tick) {
  PitChannelState& channel = state_.channels[index];
  const uint64_t loaded_at = channel.start_tick;
  const uint64_t edges = index == 0 ? edges_until(channel.switch_tick) : 0;
  settle(channel, tick);
  if (index != 0 || channel.start_tick == loaded_at) return;
  // The period that ended at the switch brought an edge; the new count starts its own tally.
  state_.edge_owed |= edges > state_.edges_seen;
  state_.edges_seen = 0;
}

Pit::Output Pit::poll(uint64_t now_ns) {
  const uint64_t tick = tick_at(now_ns);
  settle_channel(0, tick);
  const uint64_t edges = edges_until(tick);
  Output output;
  output.level = output_at(state_.channels[0], tick);
  output.changed = output.level != state_.line;
  output.edge = state_.edge_owed || edges > state_.edges_seen || (output.level && output.changed);
  state_.edge_owed = false;
  state_.edges_seen = edges;
  state_.line = output.level;
  if (output.edge) state_.last_edge_ns = now_ns;
  return output;
}

std::optional<uint64_t> Pit::next_deadline_ns() const {
  const PitChannelState& channel = state_.channels[0];
  if (!is_counting(channel)) return std::nullopt;
  if (is_periodic(channel)) {
    const uint64_t next = ns_of(channel.start_tick + (state_.edges_seen + 1) * channel.count);
    const bool is_fast = ns_of(std::max(channel.count, channel.next_count)) < kPitMinPeriodNs;
    return is_fast ? std::max(next, state_.last_edge_ns + kPitMinPeriodNs) : next;
  }
  if (state_.edges_seen != 0) return std::nullopt;
  return ns_of(channel.start_tick + channel.count + (channel.mode == 0 ? 0 : 1));
}

void Pit::reset(uint64_t now_ns) {
  state_ = PitState{};
  for (PitChannelState& channel : state_.channels) channel.start_tick = tick_at(now_ns);
  state_.channels[2].gate = false;  // bit 0 of port 0x61
  state_.last_edge_ns = now_ns;
}

PitState Pit::save(uint64_t now_ns) const {
  const uint64_t tick = tick_at(now_ns);
  PitState state = state_;
  for (PitChannelState& channel : state.channels) {
    channel.start_tick = tick - std::min(tick, channel.start_tick);
    channel.switch_tick = channel.switch_tick - std::min(tick, channel.switch_tick);
  }
  state.last_edge_ns = now_ns - std::min(now_ns, state.last_edge_ns);
  return state;
}

void Pit::restore(const PitState& state, uint64_t now_ns) {
  const uint64_t tick = tick_at(now_ns);
  state_ = state;
  for (PitChannelState& channel : state_.channels) {
    // A snapshot is input: no value of it may divide by zero or reach beyond the arithmetic.
    if (channel.mode > 5) channel.mode = 0;
    if (channel.access > PitAccess::LowHigh) channel.access = PitAccess::LowHigh;
    channel.count = std::clamp<uint32_t>(channel.count, 1, 0x10000);
    channel.next_count = std::min<uint32_t>(channel.next_count, 0x10000);
    channel.start_tick = tick - std::min(tick, channel.start_tick);
    channel.switch_tick = tick + std::min<uint64_t>(channel.switch_tick, 0x10000);
  }
  state_.channels[0].gate = true;
  state_.channels[1].gate = true;
  state_.port61 &= kPort61Writable;
  state_.channels[2].gate = (state_.port61 & kPort61Gate2) != 0;
  state_.edges_seen = std::min(state.edges_seen, edges_until(tick));
  state_.last_edge_ns = now_ns - std::min(now_ns, state.last_edge_ns);
}

}  // namespace trapeze
