#include "bus/address_bus.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "bus/board_bus.h"

namespace trapeze {
namespace {

struct Access {
  uint64_t offset;
  Width width;
  uint64_t value;
  bool operator==(const Access&) const = default;
};

// Reads give `fill` in every byte; accesses are recorded.
struct Recorder final : IoDevice {
  explicit Recorder(uint8_t fill_byte) : fill(fill_byte) {}
  uint64_t read(uint64_t offset, Width width) override {
    reads.push_back({offset, width, 0});
    return fill * uint64_t{0x0101010101010101};
  }
  void write(uint64_t offset, Width width, uint64_t value) override {
    writes.push_back({offset, width, value});
  }
  uint8_t fill;
  std::vector<Access> reads;
  std::vector<Access> writes;
};

TEST(AddressBus, access_inside_a_range_reaches_its_device_with_the_offset) {
  MemoryBus bus;
  Recorder device(0x5a);
  ASSERT_TRUE(bus.attach({Gpa{0x1000}, 0x100}, device, "device"));
  EXPECT_EQ(bus.read(0x1010, Width::Dword), 0x5a5a5a5aU);
  bus.write(0x10f8, Width::Qword, 0x1122334455667788);
  bus.write(0x10ff, Width::Byte, 0xabcd);
  EXPECT_EQ(device.reads, (std::vector<Access>{{0x10, Width::Dword, 0}}));
  EXPECT_EQ(device.writes, (std::vector<Access>{{0xf8, Width::Qword, 0x1122334455667788},
                                                {0xff, Width::Byte, 0xcd}}));
}

TEST(AddressBus, access_to_nothing_reads_ones_and_drops_writes) {
  PortBus bus;
  bus.write(0x80, Width::Byte, 1);
  EXPECT_EQ(bus.read(0x80, Width::Byte), 0xffU);
  EXPECT_EQ(bus.read(0x80, Width::Dword), 0xffffffffU);
}

TEST(AddressBus, access_across_borders_is_split_into_bytes) {
  PortBus bus;
  Recorder low(0x11);
  Recorder high(0x22);
  ASSERT_TRUE(bus.attach(Port{0x70}, 2, low, "low"));
  ASSERT_TRUE(bus.attach(Port{0x73}, 1, high, "high"));
  EXPECT_EQ(bus.read(0x70, Width::Dword), 0x22ff1111U);
  EXPECT_EQ(bus.read(0x6f, Width::Word), 0x11ffU);
  bus.write(0x71, Width::Dword, 0xddccbbaa);
  EXPECT_EQ(low.writes, (std::vector<Access>{{1, Width::Byte, 0xaa}}));
  EXPECT_EQ(high.writes, (std::vector<Access>{{0, Width::Byte, 0xcc}}));
  EXPECT_EQ(low.reads.back(), (Access{0, Width::Byte, 0}));
}

TEST(AddressBus, access_at_the_end_of_the_address_space_does_not_wrap) {
  PortBus ports;
  Recorder first(0x11);
  Recorder last(0x22);
  ASSERT_TRUE(ports.attach(Port{0}, 1, first, "first"));
  ASSERT_TRUE(ports.attach(Port{0xffff}, 1, last, "last"));
  EXPECT_EQ(ports.read(0xffff, Width::Dword), 0xffffff22U);
  ports.write(0xffff, Width::Dword, 0x44332211);
  EXPECT_EQ(last.writes, (std::vector<Access>{{0, Width::Byte, 0x11}}));
  EXPECT_TRUE(first.writes.empty());

  MemoryBus memory;
  ASSERT_TRUE(memory.attach({Gpa{0}, 8}, first, "first"));
  ASSERT_TRUE(memory.AddressBus::attach(~uint64_t{0}, 1, last, "last"));
  EXPECT_EQ(memory.read(~uint64_t{0}, Width::Word), 0xff22U);
}

TEST(AddressBus, overlap_is_refused_and_both_are_named) {
  MemoryBus bus;
  Recorder a(1);
  Recorder b(2);
  ASSERT_TRUE(bus.attach({Gpa{0x1000}, 0x1000}, a, "first device"));
  const auto below = bus.attach({Gpa{0xfff}, 2}, b, "second device");
  ASSERT_FALSE(below);
  EXPECT_NE(below.error().message.find("first device"), std::string::npos);
  EXPECT_NE(below.error().message.find("second device"), std::string::npos);
  EXPECT_FALSE(bus.attach({Gpa{0x1fff}, 1}, b, "b"));
  EXPECT_FALSE(bus.attach({Gpa{0}, 0x10000}, b, "b"));
  EXPECT_FALSE(bus.attach({Gpa{0x3000}, 0}, b, "empty"));
  EXPECT_TRUE(bus.attach({Gpa{0x2000}, 1}, b, "b"));
}

TEST(AddressBus, range_beyond_the_address_space_is_refused) {
  PortBus bus;
  Recorder device(1);
  EXPECT_FALSE(bus.attach(Port{0xfff8}, 9, device, "device"));
  EXPECT_TRUE(bus.attach(Port{0xfff8}, 8, device, "device"));
}

TEST(AddressBus, full_bus_refuses_more) {
  PortBus bus;
  Recorder device(1);
  for (uint16_t i = 0; i < AddressBus::kMaxRanges; ++i) {
    ASSERT_TRUE(bus.attach(Port{i}, 1, device, "device"));
  }
  EXPECT_FALSE(bus.attach(Port{0x8000}, 1, device, "one more"));
}

TEST(AddressBus, moved_range_answers_only_at_its_new_place) {
  MemoryBus bus;
  Recorder moved(0x11);
  Recorder other(0x22);
  ASSERT_TRUE(bus.attach({Gpa{0x1000}, 0x1000}, moved, "moved"));
  ASSERT_TRUE(bus.attach({Gpa{0x8000}, 0x1000}, other, "other"));
  ASSERT_TRUE(bus.move(0x1000, 0x1800));  // overlaps its own old place
  EXPECT_EQ(bus.read(0x1000, Width::Byte), 0xffU);
  EXPECT_EQ(bus.read(0x2000, Width::Byte), 0x11U);
  EXPECT_FALSE(bus.move(0x1800, 0x7fff));
  EXPECT_EQ(bus.read(0x2000, Width::Byte), 0x11U);
  EXPECT_FALSE(bus.move(0x1000, 0x3000));
  EXPECT_TRUE(bus.detach(0x1800));
  EXPECT_FALSE(bus.detach(0x1800));
  EXPECT_EQ(bus.read(0x2000, Width::Byte), 0xffU);
}

TEST(AddressBus, device_may_move_itself_while_it_is_called) {
  struct Mover final : IoDevice {
    uint64_t read(uint64_t, Width) override { return 1; }
    void write(uint64_t, Width, uint64_t value) override { EXPECT_TRUE(bus.move(0x1000, value)); }
    MemoryBus bus;
  } device;
  ASSERT_TRUE(device.bus.attach({Gpa{0x1000}, 8}, device, "mover"));
  device.bus.write(0x1000, Width::Qword, 0x9000);
  EXPECT_EQ(device.bus.read(0x9000, Width::Byte), 1U);
}

TEST(AddressBus, lookups_during_moves_find_the_right_device_or_none) {
  struct Fixed final : IoDevice {
    uint64_t read(uint64_t offset, Width) override { return value + offset; }
    void write(uint64_t, Width, uint64_t) override {}
    explicit Fixed(uint64_t v) : value(v) {}
    uint64_t value;
  } still(0x40), moving(0x80);
  MemoryBus bus;
  ASSERT_TRUE(bus.attach({Gpa{0x5000}, 8}, still, "still"));
  ASSERT_TRUE(bus.attach({Gpa{0x1000}, 8}, moving, "moving"));
  std::atomic<bool> stop{false};
  std::thread mover([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      EXPECT_TRUE(bus.move(0x1000, 0x9000));
      EXPECT_TRUE(bus.move(0x9000, 0x1000));
    }
  });
  uint64_t wrong = 0;
  for (int i = 0; i < 200'000; ++i) {
    wrong += bus.read(0x5003, Width::Byte) != 0x43;
    const uint64_t moved = bus.read(0x1001, Width::Byte);
    wrong += moved != 0x81 && moved != 0xff;
  }
  stop.store(true, std::memory_order_relaxed);
  mover.join();
  EXPECT_EQ(wrong, 0U);
}

TEST(BoardBus, ports_and_memory_are_apart) {
  BoardBus board;
  Recorder port(0x11);
  Recorder memory(0x22);
  ASSERT_TRUE(board.ports().attach(Port{0x60}, 1, port, "port"));
  ASSERT_TRUE(board.memory().attach({Gpa{0x60}, 1}, memory, "memory"));
  EXPECT_EQ(board.pio_read(Port{0x60}, Width::Byte), 0x11U);
  EXPECT_EQ(board.mmio_read(Gpa{0x60}, Width::Byte), 0x22U);
  board.pio_write(Port{0x60}, Width::Byte, 1);
  board.mmio_write(Gpa{0x60}, Width::Byte, 2);
  EXPECT_EQ(port.writes.back().value, 1U);
  EXPECT_EQ(memory.writes.back().value, 2U);
}

}  // namespace
}  // namespace trapeze
