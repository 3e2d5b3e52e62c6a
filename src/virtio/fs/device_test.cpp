#include "virtio/fs/device.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>

#include "virtio/fs/fake_server.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;

constexpr uint16_t kRequests = fs::kFirstRequestQueue;
constexpr Gpa kMessage{0x10000};
constexpr Gpa kReply{0x20000};

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { used.push_back(queue); }
  void config_changed() override {}
  void needs_reset() override {}
  std::vector<uint16_t> used;
};

class FsDeviceTest : public testing::Test {
 protected:
  void SetUp() override { start(); }
  void start() {
    active.emplace(ActiveState{*memory, interrupt, 0, [](uint16_t) {}, {}});
    active->queues.reserve(2);
    for (TestDriver* driver : {&urgent, &requests}) {
      active->queues.emplace_back(std::in_place, *memory);
      ASSERT_EQ(active->queues.back()->configure(driver->config(), driver->features(), 1024),
                QueueFault::None);
    }
    device.activate(*active);
  }
  void put_message(const std::string& text) {
    memory->write(kMessage, std::as_bytes(std::span(text)));
  }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver urgent{*memory, 128, Gpa{0x1000}, {.event_idx = true, .indirect = false}};
  TestDriver requests{*memory, 64, Gpa{0x8000}, {.event_idx = false, .indirect = true}};
  FakeInterrupt interrupt;
  FakeFsServer server;
  std::optional<ActiveState> active;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FsDevice device{{.tag = "files"}, server, *loop};
};

TEST_F(FsDeviceTest, configuration_has_the_tag_and_one_request_queue) {
  std::array<std::byte, fs::kConfigBytes> bytes{};
  ASSERT_EQ(device.config_bytes(), bytes.size());
  device.read_config(0, bytes);
  const std::string tag(reinterpret_cast<const char*>(bytes.data()), fs::kTagBytes);
  EXPECT_EQ(tag, "files" + std::string(31, '\0'));
  EXPECT_EQ(bytes[36], std::byte{1});
  std::array<std::byte, 2> part{};
  device.read_config(1, part);
  EXPECT_EQ(part[0], std::byte{'i'});
  EXPECT_EQ(device.type(), VirtioType::FileSystem);
  EXPECT_EQ(device.queue_max_sizes().size(), 2U);
}

TEST_F(FsDeviceTest, a_tag_may_fill_its_place) {
  const FsDevice longest({.tag = std::string(fs::kTagBytes, 'x')}, server, *loop);
  EXPECT_EQ(longest.config_bytes(), 40U);
}

TEST_F(FsDeviceTest, a_request_reaches_the_server_and_its_reply_the_guest) {
  put_message("request, and data");
  server.reply = "0123456789abcdef and more";
  requests.add(std::array{Buffer{kMessage, 8, false}, Buffer{kMessage + 8, 9, false},
                          Buffer{kReply, 16, true}, Buffer{kReply + 0x100, 100, true}});
  requests.publish();
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_EQ(server.messages, std::vector<std::string>{"request, and data"});
  EXPECT_EQ(text_at(*memory, kReply, 16), "0123456789abcdef");
  EXPECT_EQ(text_at(*memory, kReply + 0x100, 9), " and more");
  const auto used = requests.take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, server.reply.size());
  EXPECT_EQ(interrupt.used, std::vector<uint16_t>{kRequests});
  EXPECT_EQ(device.metrics().requests.get(), 1U);
  EXPECT_EQ(device.metrics().request_bytes.get(), 17U);
  EXPECT_EQ(device.metrics().reply_bytes.get(), server.reply.size());
  EXPECT_EQ(device.metrics().errors.get(), 0U);
}

TEST_F(FsDeviceTest, a_short_request_that_comes_alone_is_served_on_the_vcpu) {
  server.all_are_short = true;
  requests.add(std::array{Buffer{kMessage, 8, false}, Buffer{kReply, 16, true}});
  requests.publish();
  EXPECT_TRUE(device.on_vcpu_kick(kRequests));
  EXPECT_TRUE(requests.take_used());
  EXPECT_EQ(interrupt.used, std::vector<uint16_t>{kRequests});
  EXPECT_TRUE(device.on_vcpu_kick(kRequests)) << "nothing there is nothing left";
  EXPECT_TRUE(device.takes_vcpu_kicks(kRequests));
  EXPECT_FALSE(device.takes_vcpu_kicks(fs::kHighPriorityQueue));
}

TEST_F(FsDeviceTest, long_requests_and_crowds_wait_for_the_loop) {
  requests.add(std::array{Buffer{kMessage, 8, false}, Buffer{kReply, 16, true}});
  requests.publish();
  EXPECT_FALSE(device.on_vcpu_kick(kRequests));
  server.all_are_short = true;
  requests.add(std::array{Buffer{kMessage, 8, false}, Buffer{kReply, 16, true}});
  requests.publish();
  EXPECT_FALSE(device.on_vcpu_kick(kRequests));
  EXPECT_TRUE(server.messages.empty());
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_TRUE(requests.take_used());
  EXPECT_TRUE(requests.take_used());
}

TEST_F(FsDeviceTest, a_request_without_reply_is_given_back_empty) {
  server.wants_reply = false;
  urgent.add({kMessage, 48, false});
  urgent.publish();
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  const auto used = urgent.take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);
  EXPECT_EQ(server.messages.size(), 1U);
}

TEST_F(FsDeviceTest, a_request_without_room_breaks_the_queue) {
  requests.add(std::array{Buffer{kMessage, 40, false}, Buffer{kReply, 15, true}});
  requests.publish();
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_EQ(active->queue(kRequests)->fault(), QueueFault::WrongDirection);
  EXPECT_FALSE(requests.take_used());
  EXPECT_EQ(device.metrics().bad_requests.get(), 1U);
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_EQ(server.messages.size(), 1U);
}

TEST_F(FsDeviceTest, one_busy_queue_lets_others_work) {
  for (int i = 0; i < 20; ++i) {
    requests.add(std::array{Buffer{kMessage, 40, false}, Buffer{kReply, 16, true}});
  }
  requests.publish();
  EXPECT_TRUE(device.on_kick(kRequests));
  EXPECT_EQ(server.messages.size(), 16U);
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_EQ(server.messages.size(), 20U);
}

TEST_F(FsDeviceTest, errors_are_counted) {
  server.is_error = true;
  requests.add(std::array{Buffer{kMessage, 40, false}, Buffer{kReply, 16, true}});
  requests.publish();
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_EQ(device.metrics().errors.get(), 1U);
}

TEST_F(FsDeviceTest, reset_makes_the_server_forget_once) {
  device.reset();
  device.reset();
  EXPECT_EQ(server.resets, 1);
  EXPECT_FALSE(device.on_kick(kRequests));
  EXPECT_TRUE(server.messages.empty());
}

class FsForgetTest : public FsDeviceTest {
 protected:
  void SetUp() override {
    server.wants_reply = false;
    start();
  }
  void forget() {
    urgent.add({kMessage, 48, false});
    urgent.publish();
  }
  // The loop, for so many waits.
  void run_for(double waits) {
    const auto wait = std::chrono::duration_cast<std::chrono::nanoseconds>(FsDevice::kForgetWait);
    loop->start_timer(
        std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(wait.count()) * waits)),
        [this] { loop->stop(); });
    loop->run();
  }
};

TEST_F(FsForgetTest, first_forget_brings_a_kick_and_more_of_them_one_for_a_crowd) {
  forget();
  EXPECT_TRUE(urgent.needs_kick());
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  EXPECT_TRUE(urgent.take_used());
  for (int i = 1; i < FsDevice::kForgetCrowd; ++i) {
    forget();
    EXPECT_FALSE(urgent.needs_kick()) << i;
  }
  forget();
  EXPECT_TRUE(urgent.needs_kick());
  while (device.on_kick(fs::kHighPriorityQueue)) {
  }
  EXPECT_EQ(server.messages.size(), 1U + FsDevice::kForgetCrowd);
}

TEST_F(FsForgetTest, forgets_that_are_no_crowd_are_looked_for) {
  forget();
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  EXPECT_TRUE(urgent.take_used());
  urgent.want_interrupt();
  interrupt.used.clear();
  forget();
  forget();
  run_for(1.5);
  EXPECT_EQ(server.messages.size(), 3U);
  EXPECT_EQ(interrupt.used, std::vector<uint16_t>{fs::kHighPriorityQueue});
}

TEST_F(FsForgetTest, quiet_driver_kicks_for_the_next_one_again) {
  forget();
  EXPECT_TRUE(urgent.needs_kick());
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  run_for(2.5);  // the first look knows of one
  forget();
  EXPECT_TRUE(urgent.needs_kick());
}

TEST_F(FsForgetTest, server_that_is_full_gets_them_before_the_next_request) {
  forget();
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  put_message("forget");
  forget();
  memory->write(kMessage + 0x100, std::as_bytes(std::span("unlink", 6)));
  requests.add(Buffer{kMessage + 0x100, 6, false});
  requests.publish();
  server.messages.clear();
  server.is_full = server.all_are_short = true;
  EXPECT_TRUE(device.on_vcpu_kick(kRequests));
  ASSERT_EQ(server.messages.size(), 2U);
  EXPECT_EQ(server.messages[0].substr(0, 6), "forget");
  EXPECT_EQ(server.messages[1], "unlink");
}

TEST_F(FsForgetTest, nothing_is_looked_for_behind_a_reset) {
  forget();
  EXPECT_FALSE(device.on_kick(fs::kHighPriorityQueue));
  forget();
  device.reset();
  run_for(1.5);
  EXPECT_TRUE(server.messages.empty());
}

TEST_F(FsDeviceTest, a_queue_that_does_not_exist_is_ignored) {
  EXPECT_FALSE(device.on_kick(7));
  EXPECT_EQ(device.save(), FsDeviceState{});
}

}  // namespace
}  // namespace trapeze
