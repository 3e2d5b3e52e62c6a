#include "device/serial.h"

#include <gtest/gtest.h>

#include <string_view>

#include "device/fakes.h"

namespace trapeze {
namespace {

enum : uint64_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScr };
constexpr uint64_t kFcr = kIir;
constexpr uint32_t kGsi = 4;

class SerialTest : public testing::Test {
 protected:
  uint8_t in(uint64_t reg) { return static_cast<uint8_t>(uart_.read(reg, Width::Byte)); }
  void out(uint64_t reg, uint8_t value) { uart_.write(reg, Width::Byte, value); }
  size_t receive(std::string_view text) {
    return uart_.receive({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  bool irq() { return sink_irq_.levels[kGsi]; }

  FakeWires sink_irq_;
  FakeSink sink_;
  Serial uart_{IrqLine(sink_irq_, Gsi{kGsi}), sink_};
};

TEST_F(SerialTest, written_bytes_reach_the_sink_in_order) {
  EXPECT_EQ(in(kLsr), 0x60);
  for (const char c : std::string_view("Linux\n")) out(kData, static_cast<uint8_t>(c));
  EXPECT_EQ(sink_.text, "Linux\n");
  EXPECT_EQ(in(kLsr), 0x60);
  EXPECT_EQ(sink_irq_.calls, 0U);  // nothing enabled: the interrupt controller is left alone
}

TEST_F(SerialTest, divisor_latch_hides_data_and_interrupt_enable) {
  out(kIer, 0x0f);
  out(kLcr, 0x83);
  out(kData, 0x01);
  out(kIer, 0x02);
  EXPECT_EQ(in(kData), 0x01);
  EXPECT_EQ(in(kIer), 0x02);
  out(kLcr, 0x03);
  EXPECT_EQ(in(kIer), 0x0f);
  EXPECT_TRUE(sink_.text.empty());
  EXPECT_EQ(uart_.save().divisor, 0x0201);
}

// The steps of Linux' autoconfig() that tell a 16550A from its relatives.
TEST_F(SerialTest, linux_finds_a_16550a) {
  out(kIer, 0);
  EXPECT_EQ(in(kIer), 0x00);
  out(kIer, 0x0f);
  EXPECT_EQ(in(kIer), 0x0f);
  out(kIer, 0xff);
  EXPECT_EQ(in(kIer), 0x0f);
  out(kIer, 0);
  out(kMcr, 0x1a);  // loopback with RTS and OUT2
  EXPECT_EQ(in(kMsr)&0xf0, 0x90);
  out(kMcr, 0);
  out(kFcr, 0x01);
  EXPECT_EQ(in(kIir) >> 6, 3);
  out(kLcr, 0x80);
  out(kFcr, 0x21);  // a 16750 would take its 64-byte mode
  EXPECT_EQ(in(kIir) >> 5, 6);
  EXPECT_NE(in(kIir), 0);  // the EFR of a 16650 would read 0
  out(kLcr, 0);
  out(kFcr, 0);
  EXPECT_EQ(in(kIir), 0x01);
  out(kScr, 0x5a);
  EXPECT_EQ(in(kScr), 0x5a);
}

TEST_F(SerialTest, enabling_the_transmitter_interrupt_raises_it_at_once) {
  out(kIer, 0x02);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(kIir), 0x02);  // reading answers it
  EXPECT_FALSE(irq());
  EXPECT_EQ(in(kIir), 0x01);
  out(kIer, 0x00);
  out(kIer, 0x02);  // the test that drivers make for a lost interrupt
  EXPECT_EQ(in(kIir), 0x02);
}

TEST_F(SerialTest, every_byte_written_completes_with_an_edge) {
  out(kIer, 0x02);
  const unsigned before = sink_irq_.edges;
  out(kData, 'a');
  out(kData, 'b');
  EXPECT_EQ(sink_irq_.edges, before + 2);
  EXPECT_EQ(in(kIir), 0x02);
}

TEST_F(SerialTest, received_bytes_interrupt_and_are_read_in_order) {
  out(kFcr, 0x01);
  out(kIer, 0x01);
  EXPECT_EQ(receive("ab"), 2U);
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(kIir), 0xc4);
  EXPECT_EQ(in(kLsr), 0x61);
  EXPECT_EQ(in(kData), 'a');
  EXPECT_TRUE(irq());
  EXPECT_EQ(in(kData), 'b');
  EXPECT_FALSE(irq());
  EXPECT_EQ(in(kData), 0);
  EXPECT_EQ(in(kIir), 0xc1);
}

TEST_F(SerialTest, below_the_trigger_level_it_is_a_character_timeout) {
  out(kFcr, 0x81);  // trigger at 8
  out(kIer, 0x01);
  receive("1234567");
  EXPECT_EQ(in(kIir), 0xcc);
  receive("8");
  EXPECT_EQ(in(kIir), 0xc4);
}

TEST_F(SerialTest, higher_priorities_hide_lower_ones) {
  out(kFcr, 0x01);
  out(kMcr, 0x10);  // loopback: overruns are easy to make
  in(kMsr);
  for (int i = 0; i < 17; ++i) out(kData, 'x');
  out(kMcr, 0x11);  // DSR changes
  out(kIer, 0x0f);
  EXPECT_EQ(in(kIir), 0xc6);  // line status: overrun
  EXPECT_EQ(in(kLsr)&0x02, 0x02);
  EXPECT_EQ(in(kLsr)&0x02, 0x00);
  EXPECT_EQ(in(kIir), 0xc4);  // received data
  out(kFcr, 0x03);
  EXPECT_EQ(in(kIir), 0xc2);  // transmitter
  EXPECT_EQ(in(kIir), 0xc0);  // modem status
  EXPECT_EQ(in(kMsr)&0x02, 0x02);
  EXPECT_EQ(in(kIir), 0xc1);
  EXPECT_FALSE(irq());
}

TEST_F(SerialTest, receiver_takes_what_fits_and_tells_when_there_is_room) {
  struct Listener final : RoomListener {
    void room_available() override {
      ++calls;
      uart->receive(std::array<uint8_t, 1>{'!'});
    }
    Serial* uart = nullptr;
    int calls = 0;
  } listener;
  listener.uart = &uart_;
  uart_.set_room_listener(&listener);
  EXPECT_EQ(receive("ab"), 1U);  // no FIFO: one byte
  EXPECT_EQ(in(kData), 'a');
  EXPECT_EQ(listener.calls, 1);
  EXPECT_EQ(in(kData), '!');
  EXPECT_EQ(listener.calls, 1);
  out(kFcr, 0x01);
  EXPECT_EQ(receive("0123456789abcdefgh"), 16U);
  for (int i = 0; i < 15; ++i) in(kData);
  EXPECT_EQ(listener.calls, 1);
  EXPECT_EQ(in(kData), 'f');
  EXPECT_EQ(listener.calls, 2);
}

TEST_F(SerialTest, clearing_the_fifo_also_makes_room) {
  struct Listener final : RoomListener {
    void room_available() override { ++calls; }
    int calls = 0;
  } listener;
  uart_.set_room_listener(&listener);
  out(kFcr, 0x01);
  receive("0123456789abcdefgh");
  out(kFcr, 0x03);
  EXPECT_EQ(listener.calls, 1);
  EXPECT_EQ(in(kLsr), 0x60);
}

TEST_F(SerialTest, loopback_returns_bytes_and_cuts_the_outside_off) {
  out(kMcr, 0x10);
  out(kData, 0x42);
  EXPECT_TRUE(sink_.text.empty());
  EXPECT_EQ(receive("z"), 0U);
  EXPECT_EQ(in(kData), 0x42);
}

TEST_F(SerialTest, wide_access_is_one_access_a_register) {
  out(kLcr, 0x80);
  uart_.write(kData, Width::Word, 0x1234);
  EXPECT_EQ(uart_.read(kData, Width::Word), 0x1234U);
}

TEST_F(SerialTest, restored_uart_goes_on) {
  out(kFcr, 0x01);
  out(kIer, 0x01);
  receive("hello");
  FakeWires other_irq;
  Serial other(IrqLine(other_irq, Gsi{kGsi}), sink_);
  other.restore(uart_.save());
  EXPECT_EQ(other.save(), uart_.save());
  EXPECT_TRUE(other_irq.levels[kGsi]);
  EXPECT_EQ(other.read(kData, Width::Byte), 'h');
  SerialState damaged = uart_.save();
  damaged.rx_count = 255;
  other.restore(damaged);
  EXPECT_EQ(other.save().rx_count, 16);
}

}  // namespace
}  // namespace trapeze
