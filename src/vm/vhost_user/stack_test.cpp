// The device, the port over a real socket, and another process (a thread) behind it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "backend/vhost_user/fake_process.h"
#include "backend/vhost_user/socket_backend.h"
#include "virtio/queue/test_driver.h"
#include "virtio/vhost_user/device.h"

namespace trapeze {
namespace {

namespace files = std::filesystem;
using std::chrono::milliseconds;
using vhost_user::FakeBehaviour;
using vhost_user::FakeProcess;
using Buffer = TestDriver::Buffer;

constexpr Gpa kIn{0x10000};
constexpr Gpa kOut{2 * MiB + 0x1000};  // in the second range of RAM
constexpr uint32_t kBytes = 300;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override { ++used; }
  void config_changed() override { ++config; }
  void needs_reset() override {}
  int used = 0;
  int config = 0;
};

struct Recorder final : WriteObserver {
  void guest_memory_written(GpaRange range) override { ranges.push_back(range); }
  std::vector<GpaRange> ranges;
};

struct StackTest : ::testing::Test {
  StackTest() {
    std::string name = (files::temp_directory_path() / "trapeze-vuser.XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    settings.name = "--vhost-user test";
    settings.path = folder / "socket";
    settings.reply_limit = settings.stop_limit = milliseconds(200);
    settings.first_retry = milliseconds(5);
    settings.last_retry = milliseconds(20);
    const std::array<GpaRange, 2> ram{GpaRange{Gpa{0}, MiB}, GpaRange{Gpa{2 * MiB}, MiB}};
    memory = std::move(GuestMemory::create(ram, GuestMemory::Backing::Shared)).value();
    set_log_level(LogLevel::Error);
  }
  ~StackTest() override {
    device.reset();
    backend.reset();
    process.reset();
    files::remove_all(folder);
  }

  void start_process(FakeBehaviour behaviour = {}) {
    process.reset();
    process = std::make_unique<FakeProcess>(settings.path, std::move(behaviour));
  }
  // With one queue that the driver uses: `queue`.
  void start_device(VirtioType type = VirtioType::Block, uint16_t queue = 0,
                    std::chrono::nanoseconds give_up_after = std::chrono::seconds(60)) {
    settings.config_bytes = type == VirtioType::Block ? kVhostUserBlockConfigBytes : 0;
    backend = std::move(SocketBackend::create(settings, *loop)).value();
    const VhostUserInfo& info = backend->info();
    auto model = type == VirtioType::Block
                     ? vhost_user_block_model(info, {.queues = 1, .give_up_after = give_up_after})
                 : type == VirtioType::FileSystem ? vhost_user_fs_model(info, "tag")
                                                  : vhost_user_net_model(info, {2, 0, 0, 0, 0, 1});
    device = std::make_unique<VhostUserDevice>(std::move(model).value(), *backend, *memory, *loop);
    driver.emplace(*memory, uint16_t{64}, Gpa{0x1000});
    used_queue = queue;
    activate();
  }
  void activate() {
    active.emplace(ActiveState{*memory,
                               interrupt,
                               kFeatureVersion1,
                               [this](uint16_t index) { again.push_back(index); },
                               {}});
    active->queues.resize(used_queue + size_t{1});
    active->queues[used_queue].emplace(*memory);
    ASSERT_EQ(active->queue(used_queue)->configure(driver->config(), {}, 256), QueueFault::None);
    device->activate(*active);
  }
  // Until `is_done`, at most some seconds; whether it came to that.
  bool run_until(const std::function<bool()>& is_done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!is_done() && std::chrono::steady_clock::now() < end) {
      loop->start_timer(milliseconds(2), [this] { loop->stop(); });
      loop->run();
      while (!again.empty()) {
        const uint16_t index = again.back();
        again.pop_back();
        if (device->on_kick(index)) again.push_back(index);
      }
    }
    return is_done();
  }
  void run_for_a_while() {
    run_until([turns = 0]() mutable { return ++turns > 30; });
  }
  void add(char letter, uint32_t offset = 0) {
    memory->fill(kIn + offset, static_cast<std::byte>(letter), kBytes);
    memory->fill(kOut + offset, std::byte{'.'}, kBytes);
    driver->add(
        std::array{Buffer{kIn + offset, kBytes, false}, Buffer{kOut + offset, kBytes, true}});
    driver->publish();
    if (device->on_kick(used_queue)) again.push_back(used_queue);
  }
  bool is_answered(int count) { return driver->used_idx() == count; }
  std::string answer(uint32_t offset = 0) { return text_at(*memory, kOut + offset, kBytes); }

  files::path folder;
  SocketBackendConfig settings;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<FakeProcess> process;
  std::unique_ptr<SocketBackend> backend;
  std::unique_ptr<VhostUserDevice> device;
  std::optional<TestDriver> driver;
  uint16_t used_queue = 0;
  FakeInterrupt interrupt;
  std::vector<uint16_t> again;
  std::optional<ActiveState> active;
};

TEST_F(StackTest, request_goes_there_and_back) {
  start_process();
  start_device();
  add('a');
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer(), std::string(kBytes, 'a'));
  EXPECT_EQ(driver->take_used()->len, kBytes);
  EXPECT_EQ(interrupt.used, 1);
  EXPECT_EQ(process->accepted_features(), kFeatureVersion1 | vhost_user::kFeatureProtocol);
}

TEST_F(StackTest, works_without_any_protocol_feature) {
  start_process({.features = kFeatureVersion1, .protocol = 0});
  start_device(VirtioType::Net, 1);
  add('n');
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer(), std::string(kBytes, 'n'));
  EXPECT_EQ(process->accepted_features(), kFeatureVersion1);
}

TEST_F(StackTest, memory_is_told_of_what_the_back_end_wrote) {
  start_process();
  start_device();
  Recorder recorder;
  memory->set_write_observer(&recorder);
  add('a');
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  memory->set_write_observer(nullptr);
  const auto is_answer = [](const GpaRange& range) {
    return range.start == kOut && range.size == kBytes;
  };
  // add() fills it once itself.
  EXPECT_EQ(std::count_if(recorder.ranges.begin(), recorder.ranges.end(), is_answer), 2);
}

TEST_F(StackTest, more_requests_than_the_ring_holds_are_all_served) {
  start_process();
  start_device();
  for (uint32_t round = 0; round < 200; ++round) {
    for (uint32_t i = 0; i < 20; ++i) add('a', i * 512);
    ASSERT_TRUE(
        run_until([&] { return driver->used_idx() == static_cast<uint16_t>((round + 1) * 20); }));
    while (driver->take_used()) {
    }
  }
  EXPECT_EQ(process->requests(), 4000U);
}

TEST_F(StackTest, death_with_requests_in_flight_loses_none) {
  start_process({.is_holding = true});
  start_device();
  for (uint32_t i = 0; i < 3; ++i) add(static_cast<char>('a' + i), i * 512);
  ASSERT_TRUE(run_until([&] { return process->requests() == 3; }));
  process.reset();
  run_for_a_while();
  add('d', 3 * 512);  // while nobody is there
  run_for_a_while();
  EXPECT_EQ(driver->used_idx(), 0);
  start_process();
  ASSERT_TRUE(run_until([&] { return is_answered(4); }));
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer(i * 512), std::string(kBytes, static_cast<char>('a' + i)));
  }
  EXPECT_EQ(device->metrics().connections.get(), 1U);
}

TEST_F(StackTest, disk_fails_requests_after_its_time_and_recovers) {
  start_process({.is_holding = true});
  start_device(VirtioType::Block, 0, milliseconds(50));
  add('a');
  ASSERT_TRUE(run_until([&] { return process->requests() == 1; }));
  process.reset();
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer().back(), 1) << "VIRTIO_BLK_S_IOERR";
  add('b');
  ASSERT_TRUE(is_answered(2)) << "at once, now";
  EXPECT_EQ(answer().back(), 1);
  start_process();
  ASSERT_TRUE(run_until([&] { return device->metrics().connections.get() == 1; }));
  run_for_a_while();
  add('c');
  ASSERT_TRUE(run_until([&] { return is_answered(3); }));
  EXPECT_EQ(answer(), std::string(kBytes, 'c'));
}

TEST_F(StackTest, disk_without_patience_fails_requests_at_once) {
  start_process({.is_holding = true});
  start_device(VirtioType::Block, 0, milliseconds(0));
  add('a');
  ASSERT_TRUE(run_until([&] { return process->requests() == 1; }));
  process.reset();
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer().back(), 1);
}

TEST_F(StackTest, frames_are_dropped_while_nobody_is_there) {
  start_process({.is_holding = true});
  start_device(VirtioType::Net, 1);
  add('a');
  ASSERT_TRUE(run_until([&] { return process->requests() == 1; }));
  process.reset();
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  add('b');
  EXPECT_TRUE(is_answered(2));
  EXPECT_EQ(answer(), std::string(kBytes, '.'));
}

TEST_F(StackTest, frames_that_come_in_wait_for_the_next_back_end) {
  start_process({.is_holding = true});
  start_device(VirtioType::Net, 0);
  add('a');
  ASSERT_TRUE(run_until([&] { return process->requests() == 1; }));
  start_process();
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer(), std::string(kBytes, 'a'));
}

struct HostileUsed : StackTest, ::testing::WithParamInterface<std::pair<int64_t, int64_t>> {};

TEST_P(HostileUsed, is_disconnected_and_harms_nothing) {
  FakeBehaviour behaviour;
  if (GetParam().first >= 0) behaviour.used_id = static_cast<uint32_t>(GetParam().first);
  if (GetParam().second >= 0) behaviour.used_len = static_cast<uint32_t>(GetParam().second);
  start_process(behaviour);
  start_device();
  add('a');
  // Each connection ends over it, and the request is tried again.
  ASSERT_TRUE(run_until([&] { return device->metrics().connections.get() >= 2; }));
  EXPECT_EQ(driver->used_idx(), 0);
  start_process();
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  EXPECT_EQ(answer(), std::string(kBytes, 'a'));
}

using Element = std::pair<int64_t, int64_t>;
INSTANTIATE_TEST_SUITE_P(Elements, HostileUsed,
                         ::testing::Values(Element(7, -1), Element(1024, -1),
                                           Element(0xffff'ffff, -1), Element(-1, kBytes + 1),
                                           Element(-1, 0xffff'ffff)));

TEST_F(StackTest, reset_waits_for_the_back_end_but_not_for_ever) {
  start_process({.is_holding = true});
  start_device();
  add('a');
  ASSERT_TRUE(run_until([&] { return process->requests() == 1; }));
  const auto begin = std::chrono::steady_clock::now();
  device->reset();
  // Timers of the loop count whole milliseconds, and may be early by less than one.
  EXPECT_GE(std::chrono::steady_clock::now() - begin,
            VhostUserDevice::kMaxDrain - std::chrono::milliseconds(1));
  EXPECT_EQ(process->stopped_rings(), 1);
  EXPECT_TRUE(backend->is_ready());
  EXPECT_EQ(driver->used_idx(), 0);
}

TEST_F(StackTest, reset_of_a_hung_back_end_takes_a_bounded_time) {
  start_process({.mute = vhost_user::Request::GetVringBase});
  start_device();
  add('a');
  ASSERT_TRUE(run_until([&] { return is_answered(1); }));
  const auto begin = std::chrono::steady_clock::now();
  device->reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_FALSE(backend->is_ready());
}

TEST_F(StackTest, device_works_again_after_a_reset) {
  start_process();
  start_device();
  for (int round = 0; round < 3; ++round) {
    add('a');
    ASSERT_TRUE(run_until([&] { return is_answered(1); }));
    device->reset();
    driver.emplace(*memory, uint16_t{64}, Gpa{0x1000});
    activate();
  }
  EXPECT_EQ(process->stopped_rings(), 3);
}

TEST_F(StackTest, short_requests_break_the_queue_and_never_get_there) {
  start_process();
  start_device();
  driver->add(std::array{Buffer{kIn, 15, false}, Buffer{kOut, 1, true}});
  driver->publish();
  EXPECT_FALSE(device->on_kick(0));
  run_for_a_while();
  EXPECT_TRUE(active->queue(0)->is_broken());
  EXPECT_EQ(process->requests(), 0U);
}

TEST_F(StackTest, disk_that_grew_is_told) {
  FakeBehaviour behaviour;
  behaviour.config[0] = std::byte{8};
  start_process(behaviour);
  start_device();
  behaviour.config[0] = std::byte{16};
  start_process(behaviour);
  ASSERT_TRUE(run_until([&] { return device->metrics().connections.get() == 1; }));
  EXPECT_EQ(interrupt.config, 1);
  std::byte capacity{};
  device->read_config(0, {&capacity, 1});
  EXPECT_EQ(capacity, std::byte{16});
}

TEST_F(StackTest, write_cache_is_the_back_ends_and_outlives_it) {
  const uint64_t write_cache = uint64_t{1} << 11;
  start_process({.features = kFeatureVersion1 | vhost_user::kFeatureProtocol | write_cache});
  start_device();
  const std::byte on{1};
  for (int i = 0; i < 1000; ++i) device->write_config(32, {&on, 1});
  ASSERT_TRUE(run_until([&] { return process->written_config() == 1; }));
  start_process({.features = kFeatureVersion1 | vhost_user::kFeatureProtocol | write_cache});
  ASSERT_TRUE(run_until([&] { return process->written_config() == 1; }));
}

TEST_F(StackTest, another_kind_of_back_end_is_not_taken) {
  const uint64_t flush = uint64_t{1} << 9;
  start_process({.features = kFeatureVersion1 | vhost_user::kFeatureProtocol | flush});
  start_device();
  start_process();  // cannot flush
  run_for_a_while();
  EXPECT_EQ(device->metrics().connections.get(), 0U);
  start_process({.features = kFeatureVersion1 | vhost_user::kFeatureProtocol | flush});
  EXPECT_TRUE(run_until([&] { return device->metrics().connections.get() == 1; }));
}

}  // namespace
}  // namespace trapeze
