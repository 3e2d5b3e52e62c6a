#include "virtio/rng/device.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "virtio/queue/test_driver.h"
#include "virtio/rng/host_entropy.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;

struct FakeEntropy final : EntropySource {
  size_t fill(std::span<std::byte> to) override {
    const size_t count = std::min(to.size(), left);
    std::fill_n(to.begin(), count, std::byte{0x5a});
    left -= count;
    return count;
  }
  size_t left = MiB;
};

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override { ++used; }
  void config_changed() override {}
  void needs_reset() override {}
  int used = 0;
};

struct RngTest : ::testing::Test {
  RngTest() {
    active.queues.emplace_back(std::in_place, *memory);
    EXPECT_EQ(active.queue(0)->configure(driver.config(), driver.features(), 64), QueueFault::None);
    device.activate(active);
  }
  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver driver{*memory, 64, Gpa{0x1000}, {.event_idx = false, .indirect = true}};
  FakeEntropy source;
  FakeInterrupt interrupt;
  ActiveState active{*memory, interrupt, 0, [](uint16_t) {}, {}};
  RngDevice device{source};
};

TEST_F(RngTest, buffers_are_filled_and_given_back) {
  driver.add(std::array{Buffer{Gpa{0x10000}, 10, true}, Buffer{Gpa{0x11000}, 6, true}});
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(driver.take_used()->len, 16U);
  EXPECT_EQ(text_at(*memory, Gpa{0x10000}, 11), std::string(10, 'Z') + '\0');
  EXPECT_EQ(interrupt.used, 1);
  EXPECT_EQ(device.metrics().bytes.get(), 16U);
}

TEST_F(RngTest, huge_chain_is_cut) {
  driver.add_indirect(std::vector<Buffer>(1000, Buffer{Gpa{0}, MiB, true}), Gpa{2 * MiB});
  driver.publish();
  // The rings lie in the buffer, so the device may end up with a broken queue; it must end.
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_LE(device.metrics().bytes.get(), 64 * KiB);
}

TEST_F(RngTest, dry_source_gives_what_it_has) {
  source.left = 5;
  driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(driver.take_used()->len, 5U);
  EXPECT_EQ(device.metrics().source_failures.get(), 1U);
}

TEST_F(RngTest, readable_buffer_gets_nothing) {
  driver.add(Buffer{Gpa{0x10000}, 16, false});
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(driver.take_used()->len, 0U);
}

TEST_F(RngTest, long_queue_is_served_in_turns) {
  for (int i = 0; i < 20; ++i) driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  EXPECT_TRUE(device.on_kick(0));
  EXPECT_EQ(driver.used_idx(), 16);
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(driver.used_idx(), 20);
}

TEST(HostEntropy, fills_all_and_differs) {
  HostEntropy entropy;
  std::array<std::byte, 64> first{};
  std::array<std::byte, 64> second{};
  EXPECT_EQ(entropy.fill(first), 64U);
  EXPECT_EQ(entropy.fill(second), 64U);
  EXPECT_NE(first, second);
}

}  // namespace
}  // namespace trapeze
