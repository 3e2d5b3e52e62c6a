#include "virtio/pmem/device.h"

#include <gtest/gtest.h>

#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override { ++used; }
  void config_changed() override {}
  void needs_reset() override {}
  int used = 0;
};

struct FakeBacking final : PmemBacking {
  bool flush() override {
    ++flushes;
    return works;
  }
  int flushes = 0;
  bool works = true;
};

constexpr Gpa kRequest{0x10000};
constexpr Gpa kResponse{0x11000};

struct PmemTest : ::testing::Test {
  PmemTest() {
    active.queues.emplace_back(std::in_place, *memory);
    EXPECT_EQ(active.queue(0)->configure(driver.config(), driver.features(), 64), QueueFault::None);
    device.activate(active);
    memory->store<uint32_t>(kResponse, 0xffff'ffff);
  }
  void send(uint32_t type, Gpa response = kResponse) {
    memory->store(kRequest, type);
    driver.add(std::array{Buffer{kRequest, 4, false}, Buffer{response, 4, true}});
  }
  uint32_t result(Gpa at = kResponse) { return memory->load<uint32_t>(at).value(); }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver driver{*memory, 64, Gpa{0x1000}, {.event_idx = false, .indirect = true}};
  FakeInterrupt interrupt;
  FakeBacking backing;
  ActiveState active{*memory, interrupt, 0, [](uint16_t) {}, {}};
  PmemDevice device{{Gpa{4 * GiB}, 64 * MiB}, backing};
};

TEST_F(PmemTest, config_says_where_it_is) {
  pmem::Config config;
  device.read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(config.start, 4 * GiB);
  EXPECT_EQ(config.size, 64 * MiB);
}

TEST_F(PmemTest, flush_reaches_the_backing_before_the_answer) {
  send(pmem::kRequestFlush);
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(backing.flushes, 1);
  EXPECT_EQ(driver.take_used()->len, 4U);
  EXPECT_EQ(result(), pmem::kResultOk);
  EXPECT_EQ(interrupt.used, 1);
}

TEST_F(PmemTest, failed_flush_is_told) {
  backing.works = false;
  send(pmem::kRequestFlush);
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(result(), pmem::kResultError);
  EXPECT_EQ(device.metrics().flush_failures.get(), 1U);
}

TEST_F(PmemTest, requests_that_wait_share_a_flush) {
  for (uint32_t i = 0; i < 10; ++i) send(pmem::kRequestFlush, kResponse + i * 4);
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(backing.flushes, 1);
  EXPECT_EQ(driver.used_idx(), 10);
  for (uint32_t i = 0; i < 10; ++i) EXPECT_EQ(result(kResponse + i * 4), pmem::kResultOk);
}

TEST_F(PmemTest, unknown_and_short_requests_flush_nothing) {
  send(7);
  driver.add(std::array{Buffer{kRequest, 3, false}, Buffer{kResponse, 4, true}});
  driver.add(Buffer{kResponse, 4, true});
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(backing.flushes, 0);
  EXPECT_EQ(result(), pmem::kResultError);
  EXPECT_EQ(driver.used_idx(), 3);
  EXPECT_EQ(device.metrics().bad_requests.get(), 3U);
}

TEST_F(PmemTest, answer_without_room_is_left_out) {
  memory->store(kRequest, pmem::kRequestFlush);
  driver.add(std::array{Buffer{kRequest, 4, false}, Buffer{kResponse, 3, true}});
  driver.add(Buffer{kRequest, 4, false});
  driver.publish();
  EXPECT_FALSE(device.on_kick(0));
  EXPECT_EQ(driver.take_used()->len, 0U);
  EXPECT_EQ(driver.take_used()->len, 0U);
  EXPECT_EQ(result(), 0xffff'ffffU);
}

TEST_F(PmemTest, nothing_happens_after_reset) {
  device.reset();
  EXPECT_FALSE(device.on_kick(0));
}

}  // namespace
}  // namespace trapeze
