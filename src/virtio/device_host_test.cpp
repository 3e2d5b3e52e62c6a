#include "virtio/device_host.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;

struct NoInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override {}
  void config_changed() override {}
  void needs_reset() override {}
};

// Gives every buffer back, and says on which thread. Queue 1 may be served on a vCPU.
class TwoWayDevice final : public VirtioDevice {
 public:
  VirtioType type() const override { return VirtioType::Block; }
  uint64_t offered_features() const override { return 0; }
  std::span<const uint16_t> queue_max_sizes() const override { return kSizes; }
  uint32_t config_bytes() const override { return 0; }
  void read_config(uint32_t, std::span<std::byte>) override {}
  void activate(ActiveState& state) override { active = &state; }
  void reset() override { active = nullptr; }
  bool on_kick(uint16_t index) override {
    ++loop_kicks;
    return give_back(index);
  }
  bool takes_vcpu_kicks(uint16_t queue) const override { return queue == 1; }
  bool on_vcpu_kick(uint16_t index) override {
    ++vcpu_kicks;
    return serves_on_vcpu && !give_back(index);
  }

  ActiveState* active = nullptr;
  std::atomic<bool> serves_on_vcpu{true};
  int loop_kicks = 0;
  int vcpu_kicks = 0;
  std::thread::id served_by;

 private:
  bool give_back(uint16_t index) {
    // One at a time, or the queue breaks and ThreadSanitizer speaks.
    VirtQueue* queue = active->queue(index);
    return serve(*queue, chain_, 64, [&](Chain& chain) {
      served_by = std::this_thread::get_id();
      queue->push_used(chain, 0);
      return true;
    });
  }

  static constexpr std::array<uint16_t, 2> kSizes{16, 16};
  Chain chain_;
};

struct DeviceHostTest : testing::Test {
  void start() {
    host->activate(0, {drivers[0].config(), drivers[1].config()});
    run_loop();
  }
  void run_loop() {
    for (int turn = 0; turn < 4; ++turn) {
      loop->post([this] { loop->stop(); });
      loop->run();
    }
  }
  void add(uint16_t queue) {
    drivers[queue].add(Buffer{Gpa{0x10000}, 16, true});
    drivers[queue].publish();
  }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  TestDriver drivers[2]{{*memory, 16, Gpa{0x1000}}, {*memory, 16, Gpa{0x3000}}};
  NoInterrupt interrupt;
  TwoWayDevice device;
  std::unique_ptr<DeviceHost> host =
      std::move(DeviceHost::create(device, *memory, *loop, interrupt)).value();
};

TEST_F(DeviceHostTest, kick_that_the_vcpu_can_serve_is_over_when_ring_returns) {
  start();
  add(1);
  host->ring(1);
  EXPECT_TRUE(drivers[1].take_used());
  run_loop();
  EXPECT_EQ(device.loop_kicks, 0);
}

TEST_F(DeviceHostTest, what_the_vcpu_leaves_comes_to_the_loop) {
  start();
  device.serves_on_vcpu = false;
  add(1);
  host->ring(1);
  EXPECT_FALSE(drivers[1].take_used());
  run_loop();
  EXPECT_TRUE(drivers[1].take_used());
  EXPECT_EQ(device.vcpu_kicks, 1);
  EXPECT_EQ(device.loop_kicks, 1);
}

TEST_F(DeviceHostTest, other_queues_are_for_the_loop) {
  start();
  add(0);
  host->ring(0);
  host->ring(2);  // is none
  EXPECT_FALSE(drivers[0].take_used());
  run_loop();
  EXPECT_TRUE(drivers[0].take_used());
  EXPECT_EQ(device.vcpu_kicks, 0);
}

TEST_F(DeviceHostTest, kick_before_the_device_is_active_is_served_when_it_is) {
  host->activate(0, {drivers[0].config(), drivers[1].config()});
  add(1);
  host->ring(1);
  EXPECT_EQ(device.vcpu_kicks, 0);
  run_loop();
  EXPECT_TRUE(drivers[1].take_used());
}

TEST_F(DeviceHostTest, while_the_loop_is_at_work_kicks_wait_for_it) {
  start();
  add(1);
  loop->post([this] {
    std::thread vcpu([this] { host->ring(1); });
    vcpu.join();
    EXPECT_EQ(device.vcpu_kicks, 0);
  });
  run_loop();
  EXPECT_TRUE(drivers[1].take_used());
}

// ThreadSanitizer's: vCPU and loop share the device, a turn each.
TEST_F(DeviceHostTest, vcpu_and_loop_take_turns) {
  start();
  std::thread runner([this] { loop->run(); });
  constexpr int kBuffers = 5000;
  int taken = 0;
  for (int i = 0; i < kBuffers; ++i) {
    device.serves_on_vcpu.store(i % 3 != 0);
    add(1);
    host->ring(1);
    if (i % 7 == 0) host->ring(0);
    while (!drivers[1].take_used()) std::this_thread::yield();
    ++taken;
  }
  loop->stop();
  runner.join();
  EXPECT_EQ(taken, kBuffers);
  EXPECT_GT(device.vcpu_kicks, 0);
  EXPECT_GT(device.loop_kicks, 0);
}

}  // namespace
}  // namespace trapeze
