#include "virtio/balloon/device.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;
using balloon::StatTag;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { ++used[queue]; }
  void config_changed() override { ++config_changes; }
  void needs_reset() override {}
  int used[4] = {};
  int config_changes = 0;
};

struct Observer final : WriteObserver {
  void guest_memory_written(GpaRange range) override { written.push_back(range); }
  std::vector<GpaRange> written;
};

constexpr uint64_t kAllFeatures = balloon::kFeatureStats | balloon::kFeatureDeflateOnOom |
                                  balloon::kFeaturePagePoison | balloon::kFeatureReporting;
constexpr Gpa kOrders{0x10000};  // where a test puts page numbers and statistics
constexpr Gpa kVictim{2 * MiB};  // pages to give away

struct BalloonTest : ::testing::Test {
  BalloonTest() { start(kAllFeatures); }
  ~BalloonTest() override { memory->set_write_observer(nullptr); }
  void start(uint64_t features) {
    device.reset();
    active.features = features;
    active.queues.clear();
    for (uint16_t i = 0; i < drivers.size(); ++i) {
      drivers[i].emplace(*memory, 16, Gpa{uint64_t{i} * 0x1000}, QueueFeatures{});
      active.queues.emplace_back(std::in_place, *memory);
      EXPECT_EQ(active.queue(i)->configure(drivers[i]->config(), {}, 16), QueueFault::None);
    }
    device.activate(active);
  }
  TestDriver& driver(uint16_t queue) { return *drivers[queue]; }
  void inflate(std::vector<uint32_t> pages) {
    ASSERT_TRUE(memory->write(kOrders, std::as_bytes(std::span(pages))));
    driver(0).add(Buffer{kOrders, static_cast<uint32_t>(pages.size() * 4), false});
    driver(0).publish();
    EXPECT_FALSE(device.on_kick(0));
    EXPECT_TRUE(driver(0).take_used());
  }
  static constexpr uint32_t page_of(Gpa at) { return static_cast<uint32_t>(at.raw() / 4096); }
  uint8_t byte(Gpa at) { return memory->load<uint8_t>(at).value_or(0xee); }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  FakeInterrupt interrupt;
  ActiveState active{*memory, interrupt, kAllFeatures, [](uint16_t) {}, {}};
  std::array<std::optional<TestDriver>, 4> drivers;
  BalloonDevice device{40 * KiB};
};

TEST_F(BalloonTest, config_tells_the_target_and_takes_what_the_driver_says) {
  balloon::Config config;
  device.read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(config.num_pages, 10U);
  const uint32_t actual = 7;
  device.write_config(4, std::as_bytes(std::span(&actual, 1)));
  EXPECT_EQ(device.actual_bytes(), 28 * KiB);
  const uint32_t hack = 99;
  device.write_config(0, std::as_bytes(std::span(&hack, 1)));
  device.write_config(5, std::as_bytes(std::span(&hack, 1)).first(1));
  EXPECT_EQ(device.target_bytes(), 40 * KiB);
  EXPECT_EQ(device.actual_bytes(), 28 * KiB);
}

TEST_F(BalloonTest, new_target_is_announced) {
  device.set_target(1 * MiB + 100);
  EXPECT_EQ(device.target_bytes(), 1 * MiB);
  EXPECT_EQ(interrupt.config_changes, 1);
}

TEST_F(BalloonTest, inflated_pages_read_as_zeroes_and_others_stay) {
  Observer observer;
  memory->fill(kVictim, std::byte{0x5a}, 64 * KiB);
  memory->set_write_observer(&observer);
  const uint32_t first = page_of(kVictim);
  inflate({first + 5, first + 1, first + 2, first + 1});
  EXPECT_EQ(byte(kVictim), 0x5a);
  EXPECT_EQ(byte(kVictim + 0x1000), 0);
  EXPECT_EQ(byte(kVictim + 0x2fff), 0);
  EXPECT_EQ(byte(kVictim + 0x3000), 0x5a);
  EXPECT_EQ(byte(kVictim + 0x5000), 0);
  EXPECT_EQ(device.metrics().returned_bytes.get(), 12 * KiB);
  const auto told = [&](GpaRange range) {
    return std::find(observer.written.begin(), observer.written.end(), range) !=
           observer.written.end();
  };
  EXPECT_TRUE(told({kVictim + 0x1000, 0x2000})) << "code translated from these pages is stale";
  EXPECT_TRUE(told({kVictim + 0x5000, 0x1000}));
}

TEST_F(BalloonTest, pages_that_are_no_ram_are_left_out) {
  memory->fill(kVictim, std::byte{0x5a}, 4 * KiB);
  inflate({page_of(kVictim), page_of(Gpa{MiB}), 0xffff'ffff, 0xffff'fffe, page_of(Gpa{3 * MiB})});
  EXPECT_EQ(byte(kVictim), 0);
  EXPECT_EQ(device.metrics().bad_pages.get(), 4U);
  EXPECT_EQ(device.metrics().inflated_pages.get(), 1U);
}

TEST_F(BalloonTest, list_of_odd_length_is_cut) {
  driver(0).add(Buffer{kOrders, 3, false});
  driver(0).add(Buffer{kOrders, 16, true});
  driver(0).publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(device.metrics().inflated_pages.get(), 0U);
  EXPECT_EQ(driver(0).used_idx(), 2);
}

TEST_F(BalloonTest, endless_list_ends) {
  driver(0).add_indirect(std::vector<Buffer>(2000, Buffer{kVictim, MiB, false}), kOrders);
  active.queue(0)->configure(driver(0).config(), {.event_idx = false, .indirect = true}, 16);
  driver(0).publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_LE(device.metrics().inflated_pages.get() + device.metrics().bad_pages.get(), 64U * 1024);
}

TEST_F(BalloonTest, reported_blocks_are_given_back_in_whole_pages) {
  memory->fill(kVictim, std::byte{0x5a}, 64 * KiB);
  driver(3).add(std::array{Buffer{kVictim, 0x4000, true}, Buffer{kVictim + 0x7800, 0x1000, true},
                           Buffer{kVictim + 0x8800, 0x1900, true}});
  driver(3).publish();
  EXPECT_TRUE(device.on_kick(3)) << "one chain a turn";
  EXPECT_FALSE(device.on_kick(3));
  EXPECT_EQ(byte(kVictim + 0x3fff), 0);
  EXPECT_EQ(byte(kVictim + 0x7800), 0x5a) << "no whole page";
  EXPECT_EQ(byte(kVictim + 0x8fff), 0x5a);
  EXPECT_EQ(byte(kVictim + 0x9000), 0);
  EXPECT_EQ(byte(kVictim + 0xa000), 0x5a);
  EXPECT_EQ(device.metrics().returned_bytes.get(), 20 * KiB);
}

TEST_F(BalloonTest, poisoned_blocks_keep_their_poison) {
  const uint32_t poison = 0xaaaa'aaaa;
  device.write_config(12, std::as_bytes(std::span(&poison, 1)));
  memory->fill(kVictim, std::byte{0xaa}, 16 * KiB);
  driver(3).add(Buffer{kVictim, 0x4000, true});
  driver(3).publish();
  (void)device.on_kick(3);
  EXPECT_EQ(byte(kVictim), 0xaa);
  EXPECT_EQ(driver(3).used_idx(), 1) << "the guest gets its memory back all the same";
}

TEST_F(BalloonTest, one_chain_returns_no_more_than_there_is) {
  std::vector<Buffer> blocks(8, Buffer{kVictim, MiB, true});
  driver(3).add(blocks);
  driver(3).publish();
  (void)device.on_kick(3);
  EXPECT_EQ(device.metrics().reported_bytes.get(), memory->size_bytes());
}

TEST_F(BalloonTest, reporting_moves_up_without_statistics) {
  start(balloon::kFeatureReporting);
  memory->fill(kVictim, std::byte{0x5a}, 4 * KiB);
  driver(2).add(Buffer{kVictim, 0x1000, true});
  driver(2).publish();
  (void)device.on_kick(2);
  EXPECT_EQ(byte(kVictim), 0);
}

TEST_F(BalloonTest, statistics_come_when_they_are_asked_for) {
  EXPECT_FALSE(device.request_stats([](const BalloonStats&) {})) << "the driver is not there yet";
  const balloon::Stat old[] = {{4, 111}};
  memory->write(kOrders, std::as_bytes(std::span(old)));
  driver(2).add(Buffer{kOrders, sizeof(old), false});
  driver(2).publish();
  EXPECT_FALSE(device.on_kick(2));
  EXPECT_EQ(driver(2).used_idx(), 0) << "the buffer is kept";

  std::vector<BalloonStats> seen;
  ASSERT_TRUE(device.request_stats([&](const BalloonStats& stats) { seen.push_back(stats); }));
  EXPECT_TRUE(driver(2).take_used());
  EXPECT_TRUE(seen.empty());
  EXPECT_FALSE(device.request_stats([](const BalloonStats&) {})) << "it is at work";
  const balloon::Stat fresh[] = {{4, 1000}, {5, 2000}, {77, 5}};
  memory->write(kOrders, std::as_bytes(std::span(fresh)));
  driver(2).add(Buffer{kOrders, sizeof(fresh) + 3, false});
  driver(2).publish();
  EXPECT_FALSE(device.on_kick(2));
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0][static_cast<size_t>(StatTag::FreeMemory)], 1000U);
  EXPECT_EQ(seen[0][static_cast<size_t>(StatTag::TotalMemory)], 2000U);
  EXPECT_FALSE(seen[0][static_cast<size_t>(StatTag::SwapIn)]);
}

TEST_F(BalloonTest, second_statistics_buffer_sends_the_first_back) {
  driver(2).add(Buffer{kOrders, 10, false});
  driver(2).add(Buffer{kOrders, 10, false});
  driver(2).publish();
  EXPECT_FALSE(device.on_kick(2));
  EXPECT_EQ(driver(2).used_idx(), 1);
}

TEST_F(BalloonTest, reset_forgets_the_guest_but_not_the_target) {
  const uint32_t actual = 7;
  device.write_config(4, std::as_bytes(std::span(&actual, 1)));
  device.reset();
  EXPECT_EQ(device.actual_bytes(), 0U);
  EXPECT_EQ(device.target_bytes(), 40 * KiB);
  EXPECT_FALSE(device.request_stats([](const BalloonStats&) {}));
}

TEST_F(BalloonTest, state_survives) {
  BalloonDevice other{0};
  other.restore(device.save());
  EXPECT_EQ(other.save(), device.save());
  EXPECT_EQ(other.target_bytes(), 40 * KiB);
}

}  // namespace
}  // namespace trapeze
