#include "accel/kvm/chip_state.h"

#include <algorithm>

namespace trapeze::kvm {
namespace {

constexpr uint8_t kTimer = 1U << 0;
constexpr uint8_t kCascade = 1U << 2;
constexpr uint64_t kIoApicBase = 0xfec0'0000;
// Of a redirection entry (82093AA 3.2.4).
constexpr uint64_t kDeliveryStatus = 1U << 12;
constexpr uint64_t kLevel = 1U << 15;

// Which byte comes next, in KVM's words (Linux arch/x86/kvm/i8254.c).
constexpr uint8_t kMsb = 2;
constexpr uint8_t kWord0 = 3;
constexpr uint8_t kWord1 = 4;
constexpr uint8_t kMaxMode = 5;  // KVM has 0xff before the first control word
constexpr uint64_t kNsPerS = 1'000'000'000;
constexpr uint8_t kPort61Gate2 = 1U << 0;
constexpr uint8_t kPort61Speaker = 1U << 1;

PitChannelState channel_of(const kvm_pit_channel_state& channel, uint64_t now_ns) {
  PitChannelState result;
  const bool is_programmed = channel.mode <= kMaxMode;
  result.mode = is_programmed ? channel.mode : 0;
  result.bcd = channel.bcd != 0;
  result.access = channel.rw_mode >= 1 && channel.rw_mode <= kWord0
                      ? static_cast<PitAccess>(channel.rw_mode)
                      : PitAccess::LowHigh;
  result.gate = channel.gate != 0;
  result.loaded = is_programmed;
  result.triggered = is_programmed && result.gate;
  result.write_high_next = channel.write_state == kWord1;
  result.write_low = channel.write_latch;
  result.count_latched = channel.count_latched != 0;
  result.count_latch = channel.latched_count;
  result.read_high_next = result.count_latched
                              ? channel.count_latched == kMsb && channel.rw_mode == kWord0
                              : channel.read_state == kWord1;
  result.status_latched = channel.status_latched != 0;
  result.status_latch = channel.status;
  result.count = channel.count == 0 ? 0x10000 : std::min<uint32_t>(channel.count, 0x10000);
  // Never loaded by time: channel 0, whose timer KVM keeps to itself.
  const auto loaded_ns = static_cast<uint64_t>(std::max<int64_t>(channel.count_load_time, 0));
  if (loaded_ns != 0 && loaded_ns < now_ns) {
    const auto elapsed = static_cast<unsigned __int128>(now_ns - loaded_ns) * kPitHz / kNsPerS;
    result.start_tick = static_cast<uint64_t>(elapsed);
    if (!result.gate) result.halted_elapsed = result.start_tick;
  }
  return result;
}

kvm_pit_channel_state channel_of(const PitChannelState& channel) {
  kvm_pit_channel_state result{};
  // What has been written and waits for the end of the period is the count from now on.
  result.count = channel.next_count != 0 ? channel.next_count : channel.count;
  result.latched_count = channel.count_latch;
  result.rw_mode =
      channel.access == PitAccess::Latch ? kWord0 : static_cast<uint8_t>(channel.access);
  const bool is_word = result.rw_mode == kWord0;
  if (channel.count_latched) {
    result.count_latched = is_word && channel.read_high_next ? kMsb : result.rw_mode;
  }
  result.status_latched = channel.status_latched ? 1 : 0;
  result.status = channel.status_latch;
  const bool reads_high = !channel.count_latched && is_word && channel.read_high_next;
  result.read_state = reads_high ? kWord1 : result.rw_mode;
  result.write_state = is_word && channel.write_high_next ? kWord1 : result.rw_mode;
  result.write_latch = channel.write_low;
  result.mode = channel.mode;
  result.bcd = channel.bcd ? 1 : 0;
  result.gate = channel.gate ? 1 : 0;
  return result;
}

}  // namespace

Pic8259State from_kvm(const kvm_pic_state& chip, bool is_primary) {
  const auto wires = static_cast<uint8_t>(is_primary ? ~unsigned{kCascade} : 0xffU);
  Pic8259State result;
  result.lines = chip.last_irr & wires;
  result.edge_latch = static_cast<uint8_t>(chip.irr & ~chip.elcr & wires);
  result.imr = chip.imr;
  result.isr = chip.isr;
  result.elcr = chip.elcr;
  result.vector_base = chip.irq_base;
  result.lowest = static_cast<uint8_t>((chip.priority_add + 7U) & 7U);
  result.init_step = static_cast<PicInitStep>(std::min<uint8_t>(chip.init_state, 3));
  result.wants_icw4 = chip.init4 != 0;
  result.auto_eoi = chip.auto_eoi != 0;
  result.rotate_on_auto_eoi = chip.rotate_on_auto_eoi != 0;
  result.special_mask = chip.special_mask != 0;
  result.special_fully_nested = chip.special_fully_nested_mode != 0;
  result.poll = chip.poll != 0;
  result.read_isr = chip.read_reg_select != 0;
  return result;
}

kvm_pic_state to_kvm(const Pic8259State& chip, const kvm_pic_state& current, bool is_primary) {
  kvm_pic_state result = current;
  result.last_irr = static_cast<uint8_t>(is_primary ? chip.lines & ~unsigned{kTimer} : chip.lines);
  result.irr = static_cast<uint8_t>((chip.edge_latch & ~chip.elcr) | (chip.lines & chip.elcr));
  result.imr = chip.imr;
  result.isr = chip.isr;
  result.elcr = chip.elcr;
  result.irq_base = chip.vector_base;
  result.priority_add = static_cast<uint8_t>((chip.lowest + 1U) & 7U);
  result.init_state = static_cast<uint8_t>(chip.init_step);
  result.init4 = chip.wants_icw4 ? 1 : 0;
  result.auto_eoi = chip.auto_eoi ? 1 : 0;
  result.rotate_on_auto_eoi = chip.rotate_on_auto_eoi ? 1 : 0;
  result.special_mask = chip.special_mask ? 1 : 0;
  result.special_fully_nested_mode = chip.special_fully_nested ? 1 : 0;
  result.poll = chip.poll ? 1 : 0;
  result.read_reg_select = chip.read_isr ? 1 : 0;
  return result;
}

IoApicState from_kvm(const kvm_ioapic_state& chip) {
  IoApicState result;
  result.id = chip.id;
  result.select = static_cast<uint8_t>(chip.ioregsel);
  for (unsigned pin = 0; pin < IoApicState::kPins; ++pin) {
    result.redirection[pin] = chip.redirtbl[pin].bits & ~kDeliveryStatus;
  }
  result.lines = chip.irr & ((1U << IoApicState::kPins) - 1);
  return result;
}

kvm_ioapic_state to_kvm(const IoApicState& chip) {
  kvm_ioapic_state result{};
  result.base_address = kIoApicBase;
  result.id = chip.id;
  result.ioregsel = chip.select;
  for (unsigned pin = 0; pin < IoApicState::kPins; ++pin) {
    const uint64_t entry = chip.redirection[pin];
    result.redirtbl[pin].bits = entry & ~kDeliveryStatus;
    // Canonically a wire, for KVM a request: it would send an edge that has gone out a second time.
    const bool asks = (chip.lines & 1U << pin) != 0 && (entry & kLevel) != 0;
    if (asks) result.irr |= 1U << pin;
  }
  return result;
}

PitState from_kvm(const kvm_pit_state2& pit, uint64_t now_ns) {
  PitState result;
  for (size_t i = 0; i < result.channels.size(); ++i) {
    result.channels[i] = channel_of(pit.channels[i], now_ns);
  }
  if (pit.channels[2].gate != 0) result.port61 |= kPort61Gate2;
  if ((pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) != 0) result.port61 |= kPort61Speaker;
  return result;
}

kvm_pit_state2 to_kvm(const PitState& pit) {
  kvm_pit_state2 result{};
  for (size_t i = 0; i < pit.channels.size(); ++i) {
    result.channels[i] = channel_of(pit.channels[i]);
  }
  if ((pit.port61 & kPort61Speaker) != 0) result.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
  return result;
}

}  // namespace trapeze::kvm
