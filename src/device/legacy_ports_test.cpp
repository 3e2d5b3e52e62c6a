// Tests of the small devices: i8042, power management, reset ports, debug exit, fw_cfg, the test
// device and the buffered sink.
#include <gtest/gtest.h>

#include "base/units.h"
#include "device/buffered_sink.h"
#include "device/debug_exit.h"
#include "device/fakes.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/pm.h"
#include "device/reset_ports.h"
#include "device/test_device.h"

namespace trapeze {
namespace {

class I8042Test : public testing::Test {
 protected:
  void command(uint8_t value) { controller_.command_port().write(0, Width::Byte, value); }
  uint64_t status() { return controller_.command_port().read(0, Width::Byte); }
  void data(uint8_t value) { controller_.data_port().write(0, Width::Byte, value); }
  uint64_t data() { return controller_.data_port().read(0, Width::Byte); }
  FakePower power_;
  I8042 controller_{power_};
};

TEST_F(I8042Test, probe_is_answered_at_once) {
  EXPECT_EQ(status() & 0x03, 0U);  // both buffers empty: no waiting
  command(0xaa);
  EXPECT_EQ(status() & 0x01, 1U);
  EXPECT_EQ(data(), 0x55U);
  EXPECT_EQ(status() & 0x01, 0U);
  command(0x60);
  data(0x47);
  command(0x20);
  EXPECT_EQ(data(), 0x47U);
  command(0xad);
  command(0x20);
  EXPECT_EQ(data(), 0x57U);
  command(0xab);
  EXPECT_EQ(data(), 0x00U);
}

TEST_F(I8042Test, absent_keyboard_and_mouse_time_out) {
  data(0xff);
  EXPECT_EQ(status() & 0x61, 0x41U);
  EXPECT_EQ(data(), 0xfeU);
  command(0xd4);
  data(0xff);
  EXPECT_EQ(status() & 0x61, 0x61U);
  command(0xd3);
  data(0xa5);
  EXPECT_EQ(status() & 0x21, 0x21U);
  EXPECT_EQ(data(), 0xa5U);
}

TEST_F(I8042Test, pulse_of_the_reset_line_resets) {
  command(0xff);
  EXPECT_EQ(power_.resets, 0U);
  command(0xfe);
  EXPECT_EQ(power_.resets, 1U);
  command(0xd1);
  data(0x03);
  EXPECT_EQ(power_.resets, 1U);
  command(0xd1);
  data(0x02);
  EXPECT_EQ(power_.resets, 2U);
}

TEST_F(I8042Test, restored_controller_waits_for_the_same_byte) {
  command(0x60);
  I8042 other(power_);
  other.restore(controller_.save());
  other.data_port().write(0, Width::Byte, 0x11);
  EXPECT_EQ(other.save().control, 0x11);
}

class PmTest : public testing::Test {
 protected:
  FakeClock clock_;
  FakePower power_;
  PowerManagement pm_{clock_, power_};
};

TEST_F(PmTest, s5_with_sleep_enable_powers_off) {
  pm_.write(0, Width::Byte, 5 << 2);
  EXPECT_EQ(power_.power_offs, 0U);
  pm_.write(0, Width::Byte, 3 << 2 | 0x20);
  EXPECT_EQ(power_.power_offs, 0U);
  pm_.write(0, Width::Byte, 5 << 2 | 0x20);
  EXPECT_EQ(power_.power_offs, 1U);
  EXPECT_EQ(pm_.read(0, Width::Byte), 5U << 2);
  EXPECT_EQ(pm_.read(1, Width::Byte), 0U);
}

TEST_F(PmTest, reset_register_takes_its_value_only) {
  pm_.write(2, Width::Byte, 0);
  EXPECT_EQ(power_.resets, 0U);
  pm_.write(2, Width::Byte, acpi::kResetValue);
  EXPECT_EQ(power_.resets, 1U);
}

TEST_F(PmTest, timer_counts_at_its_rate_and_wraps_at_32_bits) {
  EXPECT_EQ(pm_.read(8, Width::Dword), 0U);
  clock_.now_ns = 1'000'000'000;
  EXPECT_EQ(pm_.read(8, Width::Dword), 3'579'545U);
  clock_.now_ns = uint64_t{1'000'000'000} * 86'400 * 365;
  EXPECT_EQ(pm_.read(8, Width::Dword), static_cast<uint32_t>(uint64_t{3'579'545} * 86'400 * 365));
  EXPECT_EQ(pm_.read(9, Width::Byte), (pm_.read(8, Width::Dword) >> 8) & 0xff);
}

TEST_F(PmTest, restored_timer_goes_on_from_its_value) {
  clock_.now_ns = 5'000'000'000;
  const PmState state = pm_.save();
  FakeClock other_clock;
  PowerManagement other(other_clock, power_);
  other.restore(state);
  EXPECT_EQ(other.save(), state);
  other_clock.now_ns = 1'000'000'000;
  EXPECT_EQ(other.read(8, Width::Dword), 6 * uint64_t{3'579'545});
}

TEST(ResetPorts, rising_bits_reset) {
  FakePower power;
  SystemControlA port92(power);
  EXPECT_EQ(port92.read(0, Width::Byte), 0x02U);
  port92.write(0, Width::Byte, 0x02);
  EXPECT_EQ(power.resets, 0U);
  port92.write(0, Width::Byte, 0x03);
  port92.write(0, Width::Byte, 0x03);
  EXPECT_EQ(power.resets, 1U);

  ResetControl cf9(power);
  cf9.write(0, Width::Byte, 0x02);
  EXPECT_EQ(power.resets, 1U);
  cf9.write(0, Width::Byte, 0x06);
  EXPECT_EQ(power.resets, 2U);
  EXPECT_EQ(cf9.read(0, Width::Byte), 0x06U);
}

TEST(PortLatch, remembers_a_byte) {
  PortLatch latch;
  latch.write(0, Width::Byte, 0xa5);
  EXPECT_EQ(latch.read(0, Width::Byte), 0xa5U);
  PortLatch other;
  other.restore(latch.save());
  EXPECT_EQ(other.read(0, Width::Byte), 0xa5U);
}

TEST(DebugExit, status_is_as_qemu_computes_it) {
  FakePower events;
  DebugExit port(events);
  port.write(0, Width::Dword, 0);
  port.write(0, Width::Byte, 0x3ff);
  port.write(0, Width::Dword, 0xffff'ffff);
  EXPECT_EQ(events.statuses, (std::vector<uint32_t>{1, 0x1ff, 0xffff'ffff}));
}

class FwCfgTest : public testing::Test {
 protected:
  uint64_t item(uint16_t key, unsigned bytes) {
    fw_cfg_.write(0, Width::Word, key);
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) value |= fw_cfg_.read(1, Width::Byte) << (8 * i);
    return value;
  }
  FwCfg fw_cfg_{{.ram_size_bytes = 6 * GiB, .vcpus = 3}};
};

TEST_F(FwCfgTest, items_read_byte_by_byte) {
  EXPECT_EQ(item(0, 4), 0x554d4551U);
  EXPECT_EQ(item(1, 4), 1U);
  EXPECT_EQ(item(3, 8), 6 * GiB);
  EXPECT_EQ(item(5, 2), 3U);
  EXPECT_EQ(item(0x19, 4), 0U);  // no files
  EXPECT_EQ(item(0xffff, 8), 0U);
}

TEST_F(FwCfgTest, reading_past_an_item_gives_zeros) {
  item(3, 8);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(fw_cfg_.read(1, Width::Byte), 0U);
  EXPECT_EQ(fw_cfg_.read(0, Width::Word), 0xffffU);
}

TEST_F(FwCfgTest, restored_reader_goes_on_within_the_item) {
  item(0, 1);
  FwCfg other({.ram_size_bytes = GiB, .vcpus = 1});
  other.restore(fw_cfg_.save());
  EXPECT_EQ(other.read(1, Width::Byte), uint64_t{'E'});
}

class TestDeviceTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(device_.attach_to(bus_)); }
  BoardBus bus_;
  FakeWires interrupts_;
  FakePower power_;
  TestDevice device_{interrupts_, power_};
};

TEST_F(TestDeviceTest, latch_reads_back_in_every_width) {
  bus_.pio_write(Port{0xe0}, Width::Dword, 0x11223344);
  EXPECT_EQ(bus_.pio_read(Port{0xe0}, Width::Dword), 0x11223344U);
  bus_.pio_write(Port{0xe1}, Width::Byte, 0xaa);
  EXPECT_EQ(bus_.pio_read(Port{0xe0}, Width::Dword), 0x1122aa44U);
  EXPECT_EQ(bus_.pio_read(Port{0xe8}, Width::Byte), 0x44U);
  bus_.pio_write(Port{0xe4}, Width::Dword, 0xfee0'0000);
  EXPECT_EQ(bus_.pio_read(Port{0xe0}, Width::Dword), 0x1122aa44U);
}

TEST_F(TestDeviceTest, gsi_ports_set_levels) {
  bus_.pio_write(Port{0x2000 + 14}, Width::Dword, 1);
  EXPECT_TRUE(interrupts_.levels[14]);
  bus_.pio_write(Port{0x2000 + 14}, Width::Byte, 0x100);
  EXPECT_FALSE(interrupts_.levels[14]);
}

TEST_F(TestDeviceTest, mmio_memory_keeps_bytes) {
  const Gpa base = layout::kTestRamMmio.start;
  bus_.mmio_write(base + 0xfff8, Width::Qword, 0x0123456789abcdef);
  EXPECT_EQ(bus_.mmio_read(base + 0xfff9, Width::Word), 0xabcdU);
  EXPECT_EQ(bus_.mmio_read(base + 0xffff, Width::Word), 0xff01U);  // ends there
}

TEST_F(TestDeviceTest, the_word_shutdown_powers_off) {
  for (const char c : std::string_view("ShShutdow")) {
    bus_.pio_write(Port{0x8900}, Width::Byte, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(power_.power_offs, 0U);
  bus_.pio_write(Port{0x8900}, Width::Byte, 'n');
  EXPECT_EQ(power_.power_offs, 1U);
}

TEST_F(TestDeviceTest, state_moves_and_damage_is_refused) {
  bus_.pio_write(Port{0xe0}, Width::Dword, 0x11223344);
  TestDevice other(interrupts_, power_);
  ASSERT_TRUE(other.restore(device_.save()));
  EXPECT_EQ(other.save(), device_.save());
  TestDeviceState damaged = device_.save();
  damaged.memory.clear();
  EXPECT_FALSE(other.restore(damaged));
  damaged = device_.save();
  damaged.shutdown_matched = 8;
  EXPECT_FALSE(other.restore(damaged));
}

class BufferedSinkTest : public testing::Test {
 protected:
  void put(std::string_view text) {
    for (const char c : text) {
      const auto byte = static_cast<uint8_t>(c);
      buffered_.write(std::span(&byte, 1));
    }
  }
  FakeClock clock_;
  FakeTimers timers_;
  FakeSink sink_;
  BufferedSink buffered_{sink_, clock_, timers_};
};

TEST_F(BufferedSinkTest, lines_come_as_one_write) {
  put("one\ntwo\n");
  EXPECT_EQ(sink_.writes, (std::vector<std::string>{"one\n", "two\n"}));
  EXPECT_FALSE(buffered_.next_deadline_ns().has_value());
}

TEST_F(BufferedSinkTest, prompt_comes_after_a_short_time) {
  put("login: ");
  EXPECT_EQ(timers_.changes, 1U);
  ASSERT_TRUE(buffered_.next_deadline_ns().has_value());
  buffered_.run_timers();
  EXPECT_TRUE(sink_.writes.empty());
  clock_.now_ns = *buffered_.next_deadline_ns();
  buffered_.run_timers();
  EXPECT_EQ(sink_.text, "login: ");
}

TEST_F(BufferedSinkTest, long_line_comes_when_the_buffer_is_full) {
  put(std::string(2500, 'x'));
  EXPECT_EQ(sink_.writes.size(), 2U);
  buffered_.flush();
  EXPECT_EQ(sink_.text, std::string(2500, 'x'));
}

}  // namespace
}  // namespace trapeze
