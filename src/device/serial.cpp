#include "device/serial.h"

#include <algorithm>

namespace trapeze {
namespace {

// Registers by offset; what 0 and 1 mean depends on the divisor latch bit of LCR, and 2 is
// interrupt identification for reads, FIFO control for writes.
enum : uint64_t { kData = 0, kIer = 1, kIirFcr = 2, kLcr = 3, kMcr = 4, kLsr = 5, kMsr = 6 };

constexpr uint8_t kIerReceived = 1U << 0;
constexpr uint8_t kIerTransmitter = 1U << 1;
constexpr uint8_t kIerLine = 1U << 2;
constexpr uint8_t kIerModem = 1U << 3;
constexpr uint8_t kIerBits = 0x0f;  // the upper ones read 0; drivers tell chips apart by that

// Interrupt identification, highest priority first.
constexpr uint8_t kIirLine = 0x06;
constexpr uint8_t kIirReceived = 0x04;
constexpr uint8_t kIirTimeout = 0x0c;
constexpr uint8_t kIirTransmitter = 0x02;
constexpr uint8_t kIirModem = 0x00;
constexpr uint8_t kIirNone = 0x01;
constexpr uint8_t kIirFifos = 0xc0;

constexpr uint8_t kFcrEnable = 1U << 0;
constexpr uint8_t kFcrClearReceiver = 1U << 1;
constexpr uint8_t kFcrStored = 0xc9;  // enable, DMA mode, trigger

constexpr uint8_t kLcrDivisorLatch = 1U << 7;

constexpr uint8_t kMcrDtr = 1U << 0;
constexpr uint8_t kMcrRts = 1U << 1;
constexpr uint8_t kMcrOut1 = 1U << 2;
constexpr uint8_t kMcrOut2 = 1U << 3;
constexpr uint8_t kMcrLoopback = 1U << 4;
constexpr uint8_t kMcrBits = 0x1f;

constexpr uint8_t kLsrDataReady = 1U << 0;
constexpr uint8_t kLsrOverrun = 1U << 1;
constexpr uint8_t kLsrTransmitterEmpty = 0x60;  // holding register and shift register

constexpr uint8_t kMsrCts = 1U << 4;
constexpr uint8_t kMsrDsr = 1U << 5;
constexpr uint8_t kMsrRi = 1U << 6;
constexpr uint8_t kMsrDcd = 1U << 7;
constexpr uint8_t kMsrDeltas = 0x0f;
constexpr uint8_t kMsrRiDelta = 1U << 2;

}  // namespace

bool Serial::has_fifo() const { return (state_.fifo_control & kFcrEnable) != 0; }
bool Serial::is_divisor_latched() const { return (state_.line_control & kLcrDivisorLatch) != 0; }
bool Serial::is_loopback() const { return (state_.modem_control & kMcrLoopback) != 0; }
unsigned Serial::capacity() const { return has_fifo() ? SerialState::kFifoBytes : 1; }

unsigned Serial::trigger_level() const {
  constexpr std::array<uint8_t, 4> kLevels{1, 4, 8, 14};
  return has_fifo() ? kLevels[state_.fifo_control >> 6] : 1;
}

uint8_t Serial::line_status() const {
  const uint8_t ready = state_.rx_count > 0 ? kLsrDataReady : 0;
  return static_cast<uint8_t>(kLsrTransmitterEmpty | state_.line_errors | ready);
}

uint8_t Serial::interrupt_id() const {
  const uint8_t enabled = state_.interrupt_enable;
  if ((enabled & kIerLine) != 0 && state_.line_errors != 0) return kIirLine;
  if ((enabled & kIerReceived) != 0 && state_.rx_count > 0) {
    // Fewer bytes than the trigger level wait for four character times; here those are over.
    return state_.rx_count >= trigger_level() ? kIirReceived : kIirTimeout;
  }
  if ((enabled & kIerTransmitter) != 0 && state_.thre_pending) return kIirTransmitter;
  if ((enabled & kIerModem) != 0 && (state_.modem_status & kMsrDeltas) != 0) return kIirModem;
  return kIirNone;
}

// Only changes go out: a guest that polls LSR must not cost a call into the interrupt controller.
void Serial::update_irq() {
  const bool asserted = interrupt_id() != kIirNone;
  if (asserted != irq_level_) irq_.set(asserted);
  irq_level_ = asserted;
}

uint8_t Serial::read_byte(uint64_t offset) {
  RoomListener* listener = nullptr;
  uint8_t value = 0;
  {
    const std::lock_guard lock(mutex_);
    value = read_register(offset);
    update_irq();
    if (receive_refused_ && state_.rx_count == 0 && !is_loopback()) {
      receive_refused_ = false;
      listener = room_listener_;
    }
  }
  if (listener != nullptr) listener->room_available();
  return value;
}

uint8_t Serial::read_register(uint64_t offset) {
  switch (offset) {
    case kData:
      if (is_divisor_latched()) return static_cast<uint8_t>(state_.divisor);
      return pop_received();
    case kIer:
      if (is_divisor_latched()) return static_cast<uint8_t>(state_.divisor >> 8);
      return state_.interrupt_enable;
    case kIirFcr: {
      const uint8_t id = interrupt_id();
      if (id == kIirTransmitter) state_.thre_pending = false;  // reading it answers it
      return static_cast<uint8_t>(id | (has_fifo() ? kIirFifos : 0));
    }
    case kLcr:
      return state_.line_control;
    case kMcr:
      return state_.modem_control;
    case kLsr: {
      const uint8_t status = line_status();
      state_.line_errors = 0;
      return status;
    }
    case kMsr: {
      const uint8_t status = state_.modem_status;
      state_.modem_status = static_cast<uint8_t>(status & ~kMsrDeltas);
      return status;
    }
    default:
      return state_.scratch;
  }
}

uint8_t Serial::pop_received() {
  if (state_.rx_count == 0) return 0;
  const uint8_t value = state_.rx[0];
  std::shift_left(state_.rx.begin(), state_.rx.begin() + state_.rx_count, 1);
  --state_.rx_count;
  return value;
}

void Serial::write_byte(uint64_t offset, uint8_t value) {
  RoomListener* listener = nullptr;
  {
    const std::lock_guard lock(mutex_);
    switch (offset) {
      case kData:
        if (is_divisor_latched()) {
          state_.divisor = static_cast<uint16_t>((state_.divisor & 0xff00) | value);
        } else {
          transmit(value);
        }
        break;
      case kIer:
        if (is_divisor_latched()) {
          state_.divisor = static_cast<uint16_t>((state_.divisor & 0x00ff) | (value << 8));
        } else {
          write_interrupt_enable(value);
        }
        break;
      case kIirFcr:
        write_fifo_control(value);
        break;
      case kLcr:
        state_.line_control = value;
        break;
      case kMcr:
        write_modem_control(value);
        break;
      case kLsr:
      case kMsr:
        break;  // read-only
      default:
        state_.scratch = value;
        break;
    }
    update_irq();
    if (receive_refused_ && state_.rx_count == 0 && !is_loopback()) {
      receive_refused_ = false;
      listener = room_listener_;
    }
  }
  if (listener != nullptr) listener->room_available();
}

void Serial::transmit(uint8_t value) {
  // The holding register is full for a moment, and INTR drops if that was its only reason: an
  // edge-triggered pin sees each byte's completion.
  state_.thre_pending = false;
  update_irq();
  if (!is_loopback()) {
    sink_.write(std::span(&value, 1));
  } else if (state_.rx_count < capacity()) {
    state_.rx[state_.rx_count++] = value;
  } else {
    state_.line_errors |= kLsrOverrun;
  }
  state_.thre_pending = true;
}

void Serial::write_interrupt_enable(uint8_t value) {
  const auto enabled = static_cast<uint8_t>(value & kIerBits);
  // Enabling the interrupt while the transmitter is empty raises it at once; drivers test for that.
  if ((enabled & ~state_.interrupt_enable & kIerTransmitter) != 0) state_.thre_pending = true;
  state_.interrupt_enable = enabled;
}

void Serial::write_fifo_control(uint8_t value) {
  const bool toggles = ((value ^ state_.fifo_control) & kFcrEnable) != 0;
  if (toggles || (value & kFcrClearReceiver) != 0) state_.rx_count = 0;
  // Without the enable bit the others are not programmed.
  state_.fifo_control = (value & kFcrEnable) != 0 ? value & kFcrStored : 0;
}

// In loopback the outputs feed the inputs; else a terminal is always there and ready.
uint8_t Serial::modem_inputs() const {
  if (!is_loopback()) return kMsrCts | kMsrDsr | kMsrDcd;
  const uint8_t outputs = state_.modem_control;
  unsigned inputs = 0;
  if ((outputs & kMcrRts) != 0) inputs |= kMsrCts;
  if ((outputs & kMcrDtr) != 0) inputs |= kMsrDsr;
  if ((outputs & kMcrOut1) != 0) inputs |= kMsrRi;
  if ((outputs & kMcrOut2) != 0) inputs |= kMsrDcd;
  return static_cast<uint8_t>(inputs);
}

void Serial::write_modem_control(uint8_t value) {
  state_.modem_control = value & kMcrBits;
  const uint8_t before = state_.modem_status;
  const uint8_t inputs = modem_inputs();
  unsigned deltas = ((before ^ inputs) >> 4) & kMsrDeltas;
  if ((inputs & kMsrRi) != 0) deltas &= ~unsigned{kMsrRiDelta};  // only the end of a ring counts
  state_.modem_status = static_cast<uint8_t>(inputs | (before & kMsrDeltas) | deltas);
}

size_t Serial::receive(std::span<const uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  size_t taken = 0;
  if (!is_loopback()) {  // in loopback the outside is cut off
    while (taken < bytes.size() && state_.rx_count < capacity()) {
      state_.rx[state_.rx_count++] = bytes[taken++];
    }
  }
  if (taken < bytes.size()) receive_refused_ = true;
  update_irq();
  return taken;
}

SerialState Serial::save() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Serial::restore(const SerialState& state) {
  const std::lock_guard lock(mutex_);
  state_ = state;
  state_.rx_count = static_cast<uint8_t>(std::min<unsigned>(state_.rx_count, capacity()));
  irq_level_ = false;
  irq_.set(false);
  update_irq();
}

}  // namespace trapeze
