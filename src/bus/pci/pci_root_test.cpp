#include "bus/pci/pci_root.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/units.h"
#include "bus/pci/fake_interrupts.h"

namespace trapeze {
namespace {

constexpr unsigned kBar0 = 0x10;
constexpr unsigned kBar2 = 0x18;
constexpr unsigned kCommand = 0x04;

PciDeviceConfig card_config() {
  PciDeviceConfig config{
      .name = "card",
      .vendor_id = 0x1234,
      .device_id = 0x5678,
      .class_code = 0xff0000,
      .msix =
          PciMsixConfig{.vectors = 2, .bar = 0, .table_offset = 0x1000, .pending_offset = 0x1800},
      .capabilities = {},
      .has_intx = true};
  config.bars[0] = {PciBarKind::Memory32, false, 8 * KiB};
  config.bars[2] = {PciBarKind::Memory64, false, 1 * GiB};
  config.bars[4] = {PciBarKind::Io, false, 32};
  config.capabilities.push_back({.id = kPciCapVendorSpecific,
                                 .bytes = std::vector<uint8_t>(20),
                                 .write_mask = {0, 0, 0, 0, 0xff},
                                 .window_offset = 16,
                                 .window_bytes = 4});
  return config;
}

struct Card final : PciDevice {
  Card() : PciDevice(card_config()) {}
  uint64_t bar_read(unsigned bar, uint64_t offset, Width) override { return bar * 0x1000 + offset; }
  void bar_write(unsigned bar, uint64_t offset, Width, uint64_t value) override {
    last_bar = bar;
    last_offset = offset;
    last_value = value;
  }
  uint32_t window_read(std::span<const uint8_t> capability, unsigned offset, Width) override {
    return 0xab00U + capability[4] + offset;
  }
  void window_write(std::span<const uint8_t> capability, unsigned offset, Width,
                    uint32_t value) override {
    window = value + capability[4] + offset;
  }
  void bar_placed(unsigned bar, std::optional<Gpa> address) override { placed[bar] = address; }
  using PciDevice::bus_master_enabled;
  using PciDevice::msix;
  using PciDevice::set_intx;

  unsigned last_bar = 99;
  uint64_t last_offset = 0;
  uint64_t last_value = 0;
  uint32_t window = 0;
  std::array<std::optional<Gpa>, 6> placed;
};

class PciRootTest : public testing::Test {
 protected:
  static constexpr GpaRange kWindow64{Gpa{4 * GiB}, 16 * GiB};

  void SetUp() override {
    auto root = PciRoot::create({layout::kPciMmio32, kWindow64, &reset_}, bus_, sink_);
    ASSERT_TRUE(root) << root.error().message;
    root_ = std::move(*root);
  }
  uint32_t config(unsigned slot, unsigned offset, Width width = Width::Dword) {
    return root_->config_read(slot, offset, width);
  }
  void select(unsigned bus, unsigned slot, unsigned function, unsigned offset) {
    bus_.pio_write(Port{0xcf8}, Width::Dword,
                   0x8000'0000U | bus << 16 | slot << 11 | function << 8 | (offset & 0xfcU));
  }
  Gpa ecam(unsigned bus, unsigned slot, unsigned function, unsigned offset) {
    return layout::kPciEcam.start + (uint64_t{bus} << 20 | slot << 15 | function << 12 | offset);
  }

  struct ResetPort final : IoDevice {
    uint64_t read(uint64_t, Width) override { return 0x42; }
    void write(uint64_t, Width, uint64_t value) override { written = value; }
    uint64_t written = 0;
  } reset_;
  BoardBus bus_;
  FakeInterrupts sink_;
  Card card_;
  Card second_;
  std::unique_ptr<PciRoot> root_;
};

TEST_F(PciRootTest, host_bridge_is_in_slot_0_and_other_slots_are_empty) {
  EXPECT_EQ(config(0, 0), 0x00081b36U);
  EXPECT_EQ(config(0, 8) >> 8, 0x060000U);
  EXPECT_EQ(config(1, 0), 0xffffffffU);
  EXPECT_EQ(config(77, 0), 0xffffffffU);
}

TEST_F(PciRootTest, ports_and_ecam_show_the_same_configuration_space) {
  ASSERT_TRUE(root_->add_at(3, card_));
  select(0, 3, 0, 0);
  EXPECT_EQ(bus_.pio_read(Port{0xcf8}, Width::Dword), 0x80001800U);
  EXPECT_EQ(bus_.pio_read(Port{0xcfc}, Width::Dword), 0x56781234U);
  EXPECT_EQ(bus_.pio_read(Port{0xcfe}, Width::Word), 0x5678U);
  EXPECT_EQ(bus_.pio_read(Port{0xcfd}, Width::Byte), 0x12U);
  EXPECT_EQ(bus_.mmio_read(ecam(0, 3, 0, 0), Width::Dword), 0x56781234U);
  EXPECT_EQ(bus_.mmio_read(ecam(0, 3, 0, 1), Width::Word), 0x7812U);
  EXPECT_EQ(bus_.mmio_read(ecam(0, 3, 0, 0), Width::Qword) & 0xffffffff, 0x56781234U);
  EXPECT_EQ(bus_.mmio_read(ecam(0, 3, 0, 0xffc), Width::Qword), 0U);
  EXPECT_EQ(bus_.mmio_read(ecam(0, 3, 1, 0), Width::Dword), 0xffffffffU);
  EXPECT_EQ(bus_.mmio_read(ecam(1, 3, 0, 0), Width::Dword), 0xffffffffU);
  select(0, 3, 1, 0);
  EXPECT_EQ(bus_.pio_read(Port{0xcfc}, Width::Dword), 0xffffffffU);
  bus_.pio_write(Port{0xcf8}, Width::Dword, 0x1800);  // not enabled
  EXPECT_EQ(bus_.pio_read(Port{0xcfc}, Width::Dword), 0xffffffffU);
}

TEST_F(PciRootTest, byte_access_inside_the_address_register_is_the_reset_port) {
  select(0, 3, 0, 0);
  bus_.pio_write(Port{0xcf9}, Width::Byte, 6);
  EXPECT_EQ(reset_.written, 6U);
  EXPECT_EQ(bus_.pio_read(Port{0xcf9}, Width::Byte), 0x42U);
  EXPECT_EQ(bus_.pio_read(Port{0xcf8}, Width::Dword), 0x80001800U);
}

TEST_F(PciRootTest, added_device_has_its_bars_placed) {
  ASSERT_EQ(*root_->add(card_), 1U);
  const Gpa low{config(1, kBar0) & ~0xfU};
  const Gpa high{(uint64_t{config(1, kBar2 + 4)} << 32) | (config(1, kBar2) & ~0xfU)};
  EXPECT_TRUE(layout::kPciMmio32.contains(low, 8 * KiB));
  EXPECT_TRUE(kWindow64.contains(high, GiB));
  EXPECT_EQ(card_.placed[0], low);
  EXPECT_EQ(card_.placed[2], high);
  EXPECT_EQ(bus_.mmio_read(low + 0x10, Width::Dword), 0x10U);
  EXPECT_EQ(bus_.mmio_read(high + 0x20, Width::Dword), 0x2020U);
  bus_.mmio_write(high + 0x3fff'fff8, Width::Qword, 7);
  EXPECT_EQ(card_.last_bar, 2U);
  EXPECT_EQ(card_.last_offset, 0x3fff'fff8U);
}

TEST_F(PciRootTest, bars_follow_the_guest) {
  ASSERT_TRUE(root_->add_at(1, card_));
  const Gpa old{config(1, kBar0) & ~0xfU};
  root_->config_write(1, kBar0, Width::Dword, 0xd000'0000);
  EXPECT_EQ(bus_.mmio_read(old, Width::Dword), 0xffffffffU);
  EXPECT_EQ(bus_.mmio_read(Gpa{0xd000'0004}, Width::Dword), 4U);
  root_->config_write(1, kCommand, Width::Word, 0);
  EXPECT_EQ(bus_.mmio_read(Gpa{0xd000'0004}, Width::Dword), 0xffffffffU);
  EXPECT_EQ(card_.placed[0], std::nullopt);
  root_->config_write(1, kCommand, Width::Word, 2);
  EXPECT_EQ(bus_.mmio_read(Gpa{0xd000'0004}, Width::Dword), 4U);
}

TEST_F(PciRootTest, bar_outside_the_windows_is_not_decoded) {
  ASSERT_TRUE(root_->add_at(1, card_));
  root_->config_write(1, kBar0, Width::Dword, 0xfee0'0000);  // local APIC
  EXPECT_EQ(card_.placed[0], std::nullopt);
  root_->config_write(1, kBar0, Width::Dword, 0x10'0000);  // RAM
  EXPECT_EQ(bus_.mmio_read(Gpa{0x10'0000}, Width::Dword), 0xffffffffU);
  EXPECT_EQ(card_.placed[0], std::nullopt);
}

TEST_F(PciRootTest, io_bar_answers_at_its_ports) {
  ASSERT_TRUE(root_->add_at(3, card_));
  ASSERT_TRUE(root_->add_at(4, second_));
  EXPECT_EQ(config(3, 0x20), 0xc001U);
  EXPECT_EQ(config(4, 0x20), 0xc021U);
  EXPECT_EQ(bus_.pio_read(Port{0xc022}, Width::Word), 0x4002U);
  bus_.pio_write(Port{0xc004}, Width::Word, 7);
  EXPECT_EQ(card_.last_bar, 4U);
  EXPECT_EQ(card_.last_offset, 4U);
  EXPECT_EQ(card_.placed[4], Gpa{0xc000});

  root_->config_write(3, 0x20, Width::Dword, 0xd000);
  EXPECT_EQ(card_.placed[4], Gpa{0xd000});
  EXPECT_EQ(bus_.pio_read(Port{0xc000}, Width::Word), 0xffffU);
  EXPECT_EQ(bus_.pio_read(Port{0xd000}, Width::Word), 0x4000U);
  root_->config_write(3, 4, Width::Word, 2);  // I/O space off
  EXPECT_EQ(card_.placed[4], std::nullopt);
  EXPECT_EQ(bus_.pio_read(Port{0xd000}, Width::Word), 0xffffU);
  root_->config_write(3, 4, Width::Word, 1);
  EXPECT_EQ(card_.placed[4], Gpa{0xd000});
  root_->config_write(3, 0x20, Width::Dword, 0x600);  // the board's own ports
  EXPECT_EQ(card_.placed[4], std::nullopt);
}

TEST_F(PciRootTest, bar_over_another_one_waits_until_the_place_is_free) {
  ASSERT_TRUE(root_->add_at(1, card_));
  ASSERT_TRUE(root_->add_at(2, second_));
  const uint32_t taken = config(1, kBar0);
  root_->config_write(2, kBar0, Width::Dword, taken);
  EXPECT_EQ(second_.placed[0], std::nullopt);
  EXPECT_EQ(card_.placed[0], Gpa{taken});
  root_->config_write(1, kBar0, Width::Dword, 0xd800'0000);
  EXPECT_EQ(second_.placed[0], Gpa{taken});
}

TEST_F(PciRootTest, msix_table_in_the_bar_sends_messages) {
  ASSERT_TRUE(root_->add_at(1, card_));
  const Gpa table{(config(1, kBar0) & ~0xfU) + 0x1000};
  bus_.mmio_write(table, Width::Dword, 0xfee0'0000);
  bus_.mmio_write(table + 8, Width::Dword, 0x31);
  bus_.mmio_write(table + 12, Width::Dword, 0);
  const unsigned capability = config(1, 0x34, Width::Byte);
  root_->config_write(1, capability + 2, Width::Word, 0x8000);
  card_.msix()->notify(0);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'0000, 0x31}}));
  EXPECT_EQ(bus_.mmio_read(table + 0x800, Width::Qword), 0U);
  EXPECT_EQ(bus_.mmio_read(table + 0x20, Width::Dword), 0x1020U);  // behind the table: the device
}

TEST_F(PciRootTest, window_of_a_capability_is_handled_by_the_device) {
  ASSERT_TRUE(root_->add_at(1, card_));
  const unsigned msix = config(1, 0x34, Width::Byte);
  const unsigned vendor = config(1, msix + 1, Width::Byte);
  root_->config_write(1, vendor + 4, Width::Byte, 0x07);
  EXPECT_EQ(config(1, vendor + 16), 0xab07U);
  EXPECT_EQ(config(1, vendor + 18, Width::Byte), 0xab09U);
  root_->config_write(1, vendor + 16, Width::Dword, 0x100);
  EXPECT_EQ(card_.window, 0x107U);
}

TEST_F(PciRootTest, intx_wires_are_shared_and_can_be_disabled) {
  ASSERT_TRUE(root_->add_at(1, card_));
  ASSERT_TRUE(root_->add_at(5, second_));
  const uint32_t gsi = pci_intx_gsi(1, 0).raw();
  ASSERT_EQ(gsi, pci_intx_gsi(5, 0).raw());
  EXPECT_EQ(config(1, 0x3c, Width::Byte), gsi);
  card_.set_intx(true);
  second_.set_intx(true);
  EXPECT_TRUE(sink_.levels[gsi]);
  EXPECT_EQ(config(1, 6, Width::Word) & 8U, 8U);
  card_.set_intx(false);
  EXPECT_TRUE(sink_.levels[gsi]);
  root_->config_write(5, kCommand, Width::Word, 0x400);
  EXPECT_FALSE(sink_.levels[gsi]);
  EXPECT_EQ(config(5, 6, Width::Word) & 8U, 8U);
  root_->config_write(5, kCommand, Width::Word, 0);
  EXPECT_TRUE(sink_.levels[gsi]);
  root_->config_write(5, config(5, 0x34, Width::Byte) + 2, Width::Word, 0x8000);
  EXPECT_FALSE(sink_.levels[gsi]);  // MSI-X replaces the pin
}

TEST_F(PciRootTest, bus_mastering_is_off_until_the_guest_turns_it_on) {
  ASSERT_TRUE(root_->add_at(1, card_));
  EXPECT_FALSE(card_.bus_master_enabled());
  root_->config_write(1, kCommand, Width::Word, 6);
  EXPECT_TRUE(card_.bus_master_enabled());
}

TEST_F(PciRootTest, taken_and_missing_slots_are_refused) {
  ASSERT_TRUE(root_->add_at(1, card_));
  const auto taken = root_->add_at(1, second_);
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().message.find("card"), std::string::npos);
  EXPECT_FALSE(root_->add_at(32, second_));
}

// Two vCPUs move BARs and program MSI-X while two others use the device. For ThreadSanitizer, and
// for the promise that a moving BAR never shows another device.
TEST_F(PciRootTest, bars_move_while_other_threads_use_them) {
  ASSERT_TRUE(root_->add_at(1, card_));
  ASSERT_TRUE(root_->add_at(2, second_));
  std::atomic<bool> stop{false};
  const auto move = [&](unsigned slot, uint32_t first) {
    for (uint32_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      root_->config_write(slot, kBar0, Width::Dword, first + i % 4 * 0x10'0000);
      root_->config_write(slot, kCommand, Width::Word, i % 3 == 0 ? 0 : 2);
      root_->config_write(slot, config(slot, 0x34, Width::Byte) + 2, Width::Word, i << 14);
    }
  };
  std::thread first([&] { move(1, 0xd000'0000); });
  std::thread second([&] { move(2, 0xd010'0000); });
  std::thread interrupts([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      card_.msix()->notify(0);
      second_.set_intx(true);
      second_.set_intx(false);
    }
  });
  uint64_t wrong = 0;
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t value = bus_.mmio_read(Gpa{0xd010'0008}, Width::Dword);
    wrong += value != 8 && value != 0xffff'ffff;
  }
  stop.store(true, std::memory_order_relaxed);
  first.join();
  second.join();
  interrupts.join();
  EXPECT_EQ(wrong, 0U);
}

TEST_F(PciRootTest, state_moves_to_another_machine) {
  ASSERT_TRUE(root_->add_at(1, card_));
  root_->config_write(1, kBar0, Width::Dword, 0xd000'0000);
  select(0, 1, 0, 0x10);
  BoardBus other_bus;
  FakeInterrupts other_sink;
  auto other = *PciRoot::create({layout::kPciMmio32, kWindow64, nullptr}, other_bus, other_sink);
  ASSERT_TRUE(other->add_at(1, second_));
  ASSERT_TRUE(second_.restore(card_.save()));
  other->restore(root_->save());
  other->place_bars();
  EXPECT_EQ(second_.save(), card_.save());
  EXPECT_EQ(other_bus.pio_read(Port{0xcfc}, Width::Dword), 0xd000'0000U);
  EXPECT_EQ(other_bus.mmio_read(Gpa{0xd000'0008}, Width::Dword), 8U);
  PciDeviceState foreign = card_.save();
  foreign.config[0] = 0;
  EXPECT_FALSE(second_.restore(foreign));
  other.reset();  // before second_, which it refers to
}

}  // namespace
}  // namespace trapeze
