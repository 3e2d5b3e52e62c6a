#include "virtio/vsock/served_device.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio/fake_ring_service.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kCid = 42;
constexpr uint64_t kFeatures =
    kFeatureVersion1 | kFeatureEventIdx | vsock::kFeatureSeqpacket | feature_bit(40);
using Queues = std::vector<uint16_t>;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { told.push_back(queue); }
  void config_changed() override {}
  void needs_reset() override { ++resets; }
  const Fd* lend_interrupt(uint16_t) override { return lent; }
  Queues told;
  int resets = 0;
  const Fd* lent = nullptr;
};

struct ServedVsockTest : ::testing::Test {
  void SetUp() override {
    active.take_doorbell = [this](uint16_t queue) -> const Fd& {
      taken.push_back(queue);
      return doorbell;
    };
    for (TestDriver* driver : {&receive, &transmit, &events}) {
      active.queues.emplace_back(std::in_place, *memory);
      EXPECT_EQ(active.queues.back()->configure(driver->config(), {}, 256), QueueFault::None);
    }
  }
  void TearDown() override { device.reset(); }
  void run_loop() {
    loop->start_timer(std::chrono::milliseconds(20), [this] { loop->stop(); });
    loop->run();
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver receive{*memory, 64, Gpa{0x1000}};
  TestDriver transmit{*memory, 64, Gpa{0x2000}};
  TestDriver events{*memory, 16, Gpa{0x3000}};
  FakeInterrupt interrupt;
  ActiveState active{*memory, interrupt, kFeatures, [](uint16_t) {}, {}};
  Queues taken;
  Fd doorbell{1234};  // a number only
  FakeRingService service;
  ServedVsockDevice device{kCid, service, *loop};
};

TEST_F(ServedVsockTest, packets_are_handed_over_and_events_are_not) {
  device.activate(active);
  EXPECT_EQ(taken, (Queues{vsock::kReceiveQueue, vsock::kTransmitQueue}));
  ASSERT_EQ(service.running.size(), 2U);
  EXPECT_EQ(service.memory.size(), 2U);
  EXPECT_EQ(service.running[1].queue, vsock::kTransmitQueue);
  EXPECT_EQ(service.running[1].size, 64);
  EXPECT_EQ(service.running[1].used, memory->host(transmit.config().used, 1));
  EXPECT_EQ(service.running[1].kick->get(), 1234);
  EXPECT_EQ(service.negotiated, kFeatures & ~feature_bit(40));
  for (const uint16_t queue : Queues{0, 1, 2}) EXPECT_FALSE(device.on_kick(queue));
  EXPECT_EQ(interrupt.told, Queues{});
}

TEST_F(ServedVsockTest, files_in_guest_memory_belong_to_the_table) {
  const Fd file(::memfd_create("file", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 8 * KiB), 0);
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, MiB}};
  memory = std::move(*GuestMemory::create(ram, Gpa{3 * MiB}));
  ASSERT_TRUE(
      memory->add_file({Gpa{2 * MiB}, 8 * KiB}, file, GuestMemory::FileSharing::CopyOnWrite));
  ActiveState other{*memory, interrupt, kFeatures, [](uint16_t) {}, {}};
  other.take_doorbell = active.take_doorbell;
  for (const TestDriver* driver : {&receive, &transmit}) {
    other.queues.emplace_back(std::in_place, *memory);
    ASSERT_EQ(other.queues.back()->configure(driver->config(), {}, 256), QueueFault::None);
  }
  device.activate(other);
  ASSERT_EQ(service.memory.size(), 2U);
  EXPECT_EQ(service.memory[1].guest_address, 2 * MiB);
  EXPECT_EQ(service.memory[1].bytes, 8 * KiB);
  EXPECT_EQ(service.memory[1].host, memory->host(Gpa{2 * MiB}, 8 * KiB));
  device.reset();
}

TEST_F(ServedVsockTest, only_what_the_service_has_is_offered) {
  EXPECT_EQ(device.offered_features(), vsock::kFeatureSeqpacket);
  service.offered = kTransportFeatures;
  EXPECT_EQ(device.offered_features(), 0U);
}

TEST_F(ServedVsockTest, cid_is_in_the_configuration) {
  uint64_t cid = 0;
  device.read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
  EXPECT_EQ(cid, kCid);
}

TEST_F(ServedVsockTest, driver_that_leaves_a_queue_out_is_not_served) {
  active.queues[vsock::kTransmitQueue].reset();
  device.activate(active);
  EXPECT_EQ(taken, Queues{});
  EXPECT_EQ(service.running.size(), 0U);
  EXPECT_EQ(interrupt.resets, 0);
}

TEST_F(ServedVsockTest, broken_queue_is_not_served) {
  active.queue(vsock::kReceiveQueue)->mark_broken(QueueFault::WrongDirection);
  device.activate(active);
  EXPECT_EQ(service.running.size(), 0U);
}

TEST_F(ServedVsockTest, what_is_called_interrupts_the_driver) {
  device.activate(active);
  const uint64_t one = 1;
  ASSERT_EQ(::write(service.running[1].call->get(), &one, sizeof(one)), 8);
  run_loop();
  EXPECT_EQ(interrupt.told, Queues{vsock::kTransmitQueue});
}

TEST_F(ServedVsockTest, lent_interrupt_is_handed_over_and_taken_back) {
  const Fd lent(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  interrupt.lent = &lent;
  device.activate(active);
  EXPECT_EQ(service.running[0].call, &lent);
  interrupt.lent = nullptr;
  device.interrupts_moved();
  EXPECT_NE(service.running[0].call, &lent);
  EXPECT_EQ(interrupt.told, (Queues{0, 1}));  // one of each may be lost
}

TEST_F(ServedVsockTest, save_stops_and_knows_where_they_stood_and_resume_goes_on) {
  device.activate(active);
  EXPECT_EQ(device.save(), VsockState{.guest_cid = kCid});
  EXPECT_EQ(service.stopped, (Queues{0, 1}));
  EXPECT_EQ(active.queue(1)->save().next_avail, 9);
  EXPECT_EQ(active.queue(1)->save().next_used, 9);
  device.resume();
  EXPECT_EQ(service.running[1].next_avail, 9);
  device.resume();
  device.reset();
  EXPECT_EQ(service.stopped.size(), 4U);
  device.reset();
  EXPECT_EQ(service.stopped.size(), 4U);
}

TEST_F(ServedVsockTest, refusal_is_told_to_the_driver) {
  service.is_refusing = true;
  device.activate(active);
  EXPECT_EQ(interrupt.resets, 1);
  device.reset();
  EXPECT_TRUE(service.stopped.empty());
}

TEST_F(ServedVsockTest, restored_device_keeps_its_cid_and_tells_that_connections_are_gone) {
  device.restore({.guest_cid = kCid + 1});
  device.activate(active);
  EXPECT_EQ(interrupt.told, Queues{});
  events.add({Gpa{0x9000}, 4, true});
  events.add({Gpa{0x9004}, 4, true});
  events.publish();
  EXPECT_FALSE(device.on_kick(vsock::kEventQueue));
  EXPECT_EQ(events.take_used()->len, 4U);
  EXPECT_EQ(interrupt.told, Queues{vsock::kEventQueue});
  EXPECT_FALSE(device.on_kick(vsock::kEventQueue));
  EXPECT_FALSE(events.take_used().has_value());  // once
  uint64_t cid = 0;
  device.read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
  EXPECT_EQ(cid, kCid);
}

}  // namespace
}  // namespace trapeze
