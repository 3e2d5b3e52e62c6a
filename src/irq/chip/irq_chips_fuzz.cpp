// Random port, MMIO, wire and timer sequences on I/O APIC, 8259 pair and PIT. Checked: no crash, no
// unbounded work (the PIT cannot be made to fire more often than its clamp), the state survives a
// round trip, and any bytes at all can be restored as a state.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "irq/chip/irq_chips.h"

namespace trapeze {
namespace {

struct Sink final : ApicMessageSink {
  bool send(const ApicMessage& message) override { return message.vector >= 16; }
};

struct Host final : IrqChipsHost {
  void pic_output_changed(bool asserted) override { output = asserted; }
  void deadline_changed() override {}
  bool output = false;
};

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  template <typename T>
  T take() {
    T value{};
    const size_t size = left_ < sizeof(T) ? left_ : sizeof(T);
    std::memcpy(&value, data_, size);
    data_ += size;
    left_ -= size;
    return value;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

constexpr uint16_t kPorts[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41,
                               0x42, 0x43, 0x61, 0x43, 0x40,  0x20,  0x40, 0x21};
constexpr Width kWidths[] = {Width::Byte, Width::Word, Width::Dword, Width::Qword};

struct Board {
  FakeClock clock;
  Sink sink;
  Host host;
  IrqChips chips{clock, sink, host};
};

void advance(Board& board, uint64_t ns) {
  const uint64_t end = board.clock.now_ns + ns;
  uint64_t fired = 0;
  while (board.chips.next_deadline_ns() && *board.chips.next_deadline_ns() <= end) {
    const uint64_t deadline = *board.chips.next_deadline_ns();
    if (deadline > board.clock.now_ns) board.clock.now_ns = deadline;
    board.chips.run_timers(board.clock.now_ns);
    CHECK(++fired <= ns / kPitMinPeriodNs + 3);
  }
  board.clock.now_ns = end;
}

// Only types whose every bit pattern is a value are filled; flags and enums are made from bytes.
void restore_garbage(Board& board, Input& input) {
  IrqChipsState state;
  state.ioapic.id = input.take<uint32_t>();
  state.ioapic.select = input.take<uint8_t>();
  for (uint64_t& entry : state.ioapic.redirection) entry = input.take<uint64_t>();
  state.ioapic.lines = input.take<uint32_t>();
  for (Pic8259State* chip : {&state.pic.primary, &state.pic.secondary}) {
    chip->lines = input.take<uint8_t>();
    chip->edge_latch = input.take<uint8_t>();
    chip->imr = input.take<uint8_t>();
    chip->isr = input.take<uint8_t>();
    chip->elcr = input.take<uint8_t>();
    chip->vector_base = input.take<uint8_t>();
    chip->lowest = input.take<uint8_t>();
    chip->init_step = static_cast<PicInitStep>(input.take<uint8_t>());
    chip->auto_eoi = (input.take<uint8_t>() & 1U) != 0;
  }
  for (PitChannelState& channel : state.pit.channels) {
    channel.mode = input.take<uint8_t>();
    channel.access = static_cast<PitAccess>(input.take<uint8_t>());
    const auto flags = input.take<uint8_t>();
    channel.bcd = (flags & 1U) != 0;
    channel.loaded = (flags & 2U) != 0;
    channel.triggered = (flags & 4U) != 0;
    channel.gate = (flags & 8U) != 0;
    channel.count = input.take<uint32_t>();
    channel.next_count = input.take<uint32_t>();
    channel.start_tick = input.take<uint64_t>();
    channel.switch_tick = input.take<uint64_t>();
    channel.halted_elapsed = input.take<uint64_t>();
  }
  state.pit.edges_seen = input.take<uint64_t>();
  state.pit.last_edge_ns = input.take<uint64_t>();
  board.chips.restore(state);
}

void step(Board& board, Input& input) {
  const auto op = input.take<uint8_t>();
  const Port port(kPorts[op >> 4]);
  switch (op & 15U) {
    case 0:
    case 1:
    case 2:
      board.chips.pio_write(port, Width::Byte, input.take<uint8_t>());
      return;
    case 3:
      board.chips.pio_write(port, kWidths[op >> 6], input.take<uint32_t>());
      return;
    case 4:
    case 5:
      board.chips.pio_read(port, kWidths[op >> 6]);
      return;
    case 6:
    case 7: {
      const auto offset = input.take<uint8_t>();
      board.chips.ioapic_write(offset, kWidths[op >> 6], input.take<uint32_t>());
      return;
    }
    case 8:
      board.chips.ioapic_read(input.take<uint16_t>(), kWidths[op >> 6]);
      return;
    case 9:
    case 10: {
      const auto wire = input.take<uint8_t>();
      board.chips.set_irq_level(Gsi(wire & 31U), (wire & 0x80U) != 0);
      return;
    }
    case 11:
      board.chips.eoi(input.take<uint8_t>());
      return;
    case 12:
      return advance(board, input.take<uint32_t>() % 100'000'000U);
    case 13:
      if (board.host.output) board.chips.acknowledge_pic();
      return;
    case 14: {
      board.chips.run_timers(board.clock.now_ns);  // or restore() would report what is due
      const IrqChipsState state = board.chips.save();
      auto copy = std::make_unique<Board>();
      copy->clock.now_ns = board.clock.now_ns;
      copy->chips.restore(state);
      CHECK(copy->host.output == board.host.output);
      CHECK(copy->chips.save().ioapic == state.ioapic);
      CHECK(copy->chips.save().pic == state.pic);
      return;
    }
    default:
      return restore_garbage(board, input);
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  Board board;
  board.clock.now_ns = 1'000'000'000;
  Input input(data, size);
  while (!input.empty()) step(board, input);
  return 0;
}
