// NetTest: a network card with its driver's queues and a fake back end, for tests.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "virtio/net/device.h"
#include "virtio/net/fake_backend.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {

using Buffer = TestDriver::Buffer;

inline constexpr uint64_t kMergeable = net::kFeatureMergeableBuffers;
inline constexpr uint64_t kControl = net::kFeatureCtrlVq;
inline constexpr Gpa kSendData{0x20000};
inline constexpr Gpa kReceiveData{0x40000};
inline constexpr Gpa kCommand{0x18000};
inline constexpr Gpa kAnswer{0x18100};

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override { ++used; }
  void config_changed() override { ++config_changes; }
  void needs_reset() override { ++resets; }
  const Fd* lend_interrupt(uint16_t) override { return lent; }
  const Fd* lent = nullptr;
  int used = 0;
  int config_changes = 0;
  int resets = 0;
};

struct NetTest : ::testing::Test {
  void start(uint64_t features, uint16_t pairs = 1, const NetDeviceConfig& wanted = {}) {
    device.reset();
    backend = std::make_unique<FakeNetBackend>(pairs, offloads);
    if (mtu != 0) backend->set_mtu(mtu);
    device = std::make_unique<NetDevice>(wanted, *backend, *loop, clock);
    activate(features);
  }
  void activate(uint64_t features) {
    const auto queues = device->queue_max_sizes().size();
    drivers.clear();
    active.emplace(ActiveState{
        *memory, interrupt, features, [this](uint16_t queue) { again.push_back(queue); }, {}});
    active->queues.reserve(queues);
    for (uint16_t i = 0; i < queues; ++i) {
      drivers.push_back(
          std::make_unique<TestDriver>(*memory, uint16_t{64}, Gpa{0x1000 + i * 0x1000U},
                                       QueueFeatures{.event_idx = false, .indirect = true}));
      active->queues.emplace_back(std::in_place, *memory,
                                  [this](QueueFault) { interrupt.needs_reset(); });
      EXPECT_EQ(active->queue(i)->configure(drivers[i]->config(), drivers[i]->features(), 256),
                QueueFault::None);
    }
    device->activate(*active);
    again.clear();
  }
  void TearDown() override { device.reset(); }

  // A frame of the guest: a header and `text`.
  void put_frame(const std::string& text, uint16_t queue = 1) {
    const Gpa at = kSendData + next_frame_++ * 2048;
    memory->store(at, net::Header{});
    memory->write(at + net::kHeaderBytes, std::as_bytes(std::span(text.data(), text.size())));
    drivers[queue]->add(Buffer{at, static_cast<uint32_t>(net::kHeaderBytes + text.size()), false});
    drivers[queue]->publish();
  }
  // `count` buffers for the device to fill, `bytes` each.
  void put_buffers(size_t count, uint32_t bytes, uint16_t queue = 0) {
    for (size_t i = 0; i < count; ++i) {
      drivers[queue]->add(Buffer{kReceiveData + next_buffer_, bytes, true});
      next_buffer_ += bytes;
    }
    drivers[queue]->publish();
  }
  std::string received(const TestDriver::Used& used, uint64_t offset) {
    return text_at(*memory, kReceiveData + offset, used.len);
  }
  uint8_t command(uint8_t command_class, uint8_t number, std::span<const std::byte> data,
                  uint16_t queue = 2) {
    memory->store(kCommand, net::ControlHeader{command_class, number});
    memory->write(kCommand + 2, data);
    memory->store(kAnswer, uint8_t{0xee});
    drivers[queue]->add(std::array{Buffer{kCommand, 2, false},
                                   Buffer{kCommand + 2, static_cast<uint32_t>(data.size()), false},
                                   Buffer{kAnswer, 1, true}});
    drivers[queue]->publish();
    EXPECT_FALSE(device->on_kick(queue));
    EXPECT_TRUE(drivers[queue]->take_used().has_value());
    return *memory->load<uint8_t>(kAnswer);
  }
  template <typename T>
  uint8_t command_with(net::ControlClass command_class, uint8_t number, const T& value,
                       uint16_t queue = 2) {
    return command(static_cast<uint8_t>(command_class), number,
                   std::as_bytes(std::span<const T, 1>(&value, 1)), queue);
  }
  uint64_t use_buffers_from_the_start() { return next_buffer_ = 0; }
  net::Config config() {
    net::Config result;
    device->read_config(0, std::as_writable_bytes(std::span<net::Config, 1>(&result, 1)));
    return result;
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FakeClock clock;
  std::unique_ptr<GuestMemory> memory = make_test_memory();
  std::vector<std::unique_ptr<TestDriver>> drivers;
  FakeInterrupt interrupt;
  std::vector<uint16_t> again;
  std::optional<ActiveState> active;
  uint64_t offloads = 0;
  uint16_t mtu = 0;
  std::unique_ptr<FakeNetBackend> backend;
  std::unique_ptr<NetDevice> device;

 private:
  uint64_t next_frame_ = 0;
  uint64_t next_buffer_ = 0;
};

}  // namespace trapeze
