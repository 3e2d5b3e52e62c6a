#include "virtio/block/device.h"

#include <gtest/gtest.h>

#include "virtio/block/fake_disk.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using block::RequestType;
using Buffer = TestDriver::Buffer;

constexpr Gpa kHeader{0x8000};
constexpr Gpa kStatus{0x8100};
constexpr Gpa kData{0x10000};
constexpr uint8_t kOk = 0;
constexpr uint8_t kIoError = 1;
constexpr uint8_t kUnsupported = 2;
constexpr uint64_t kDiskBytes = 1 * MiB;

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t) override { ++used; }
  void config_changed() override {}
  void needs_reset() override {}
  int used = 0;
};

struct BlockTest : ::testing::Test {
  void start(const BlockConfig& config = {}, bool is_read_only = false,
             uint64_t features = block::kFeatureFlush) {
    device.reset();
    disk = std::make_unique<FakeDisk>(kDiskBytes, is_read_only);
    device = std::make_unique<BlockDevice>(config, *disk, *loop, clock);
    active.emplace(ActiveState{
        *memory, interrupt, features, [this](uint16_t queue) { again.push_back(queue); }, {}});
    active->queues.emplace_back(std::in_place, *memory);
    EXPECT_EQ(active->queue(0)->configure(driver.config(), driver.features(), 256),
              QueueFault::None);
    device->activate(*active);
  }
  void TearDown() override { device.reset(); }

  void put_header(RequestType type, uint64_t sector) {
    memory->store(kHeader, block::RequestHeader{static_cast<uint32_t>(type), 0, sector});
    memory->store(kStatus, uint8_t{0xee});
  }
  // Header, data and status in a descriptor each.
  void add(RequestType type, uint64_t sector, uint32_t data_bytes, bool is_writable) {
    put_header(type, sector);
    std::vector<Buffer> buffers{{kHeader, 16, false}};
    if (data_bytes != 0) buffers.push_back({kData, data_bytes, is_writable});
    buffers.push_back({kStatus, 1, true});
    driver.add(buffers);
    driver.publish();
  }
  // The status, or 0xee when the request is not done.
  uint8_t run(RequestType type, uint64_t sector, uint32_t data_bytes = 0, bool is_writable = true) {
    add(type, sector, data_bytes, is_writable);
    EXPECT_FALSE(device->on_kick(0));
    if (const auto used = driver.take_used()) last_len = used->len;
    return *memory->load<uint8_t>(kStatus);
  }
  uint8_t run_segment(RequestType type, uint64_t sector, uint32_t sectors, uint32_t flags) {
    memory->store(kData, block::DiscardSegment{sector, sectors, flags});
    return run(type, 0, 16, false);
  }

  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FakeClock clock;
  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver driver{*memory, 64, Gpa{0x1000}, {.event_idx = false, .indirect = true}};
  FakeInterrupt interrupt;
  std::vector<uint16_t> again;
  std::optional<ActiveState> active;
  std::unique_ptr<FakeDisk> disk;
  std::unique_ptr<BlockDevice> device;
  uint32_t last_len = 0;
};

TEST_F(BlockTest, written_bytes_are_read_back) {
  start();
  memory->fill(kData, std::byte{0x5a}, 1024);
  EXPECT_EQ(run(RequestType::Out, 3, 1024, false), kOk);
  EXPECT_EQ(last_len, 1U);
  EXPECT_EQ(disk->bytes[3 * 512 - 1], std::byte{0});
  EXPECT_EQ(disk->bytes[3 * 512], std::byte{0x5a});
  EXPECT_EQ(disk->bytes[5 * 512], std::byte{0});
  memory->fill(kData, std::byte{0}, 1024);
  EXPECT_EQ(run(RequestType::In, 3, 1024), kOk);
  EXPECT_EQ(last_len, 1025U);
  EXPECT_EQ(text_at(*memory, kData, 1024), std::string(1024, 'Z'));
  EXPECT_EQ(interrupt.used, 2);
  EXPECT_EQ(device->metrics().read_bytes.get(), 1024U);
}

// What the guest must have done before its vCPU runs a request.
constexpr int kAloneToTrust = 8;

struct VcpuBlockTest : BlockTest {
  void start_trusted() {
    start();
    disk->can_do_now = true;
    memory->fill(kData, std::byte{0x5a}, 1024);
    for (int i = 0; i < kAloneToTrust; ++i) {
      add(RequestType::Out, 0, 512, false);
      EXPECT_FALSE(device->on_vcpu_kick(0));
      EXPECT_FALSE(device->on_kick(0));
      EXPECT_TRUE(driver.take_used());
    }
    EXPECT_EQ(disk->done_now, 0);
    interrupt.used = 0;
  }
};

TEST_F(VcpuBlockTest, request_that_comes_alone_like_those_before_is_run_on_the_vcpu) {
  start_trusted();
  add(RequestType::Out, 3, 1024, false);
  EXPECT_TRUE(device->on_vcpu_kick(0));
  EXPECT_TRUE(driver.take_used());
  EXPECT_EQ(memory->load<uint8_t>(kStatus), kOk);
  EXPECT_EQ(disk->bytes[3 * 512], std::byte{0x5a});
  EXPECT_EQ(interrupt.used, 1);
  add(RequestType::In, ~uint64_t{0}, 512, true);
  EXPECT_TRUE(device->on_vcpu_kick(0));
  EXPECT_EQ(memory->load<uint8_t>(kStatus), kIoError);
  EXPECT_EQ(disk->done_now, 1);
}

TEST_F(VcpuBlockTest, crowd_is_for_the_loop_and_so_are_the_next_ones) {
  start_trusted();
  add(RequestType::In, 0, 512, true);
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_vcpu_kick(0));
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_TRUE(driver.take_used());
  EXPECT_TRUE(driver.take_used());
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_vcpu_kick(0));
  EXPECT_EQ(disk->done_now, 0);
}

TEST_F(VcpuBlockTest, request_beside_others_and_long_one_are_for_the_loop) {
  start_trusted();
  add(RequestType::In, 0, 64 * 1024, true);
  EXPECT_FALSE(device->on_vcpu_kick(0));
  disk->is_holding = true;
  EXPECT_FALSE(device->on_kick(0));
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_vcpu_kick(0));
  EXPECT_EQ(disk->done_now, 0);
}

TEST_F(VcpuBlockTest, what_would_have_to_wait_goes_on_on_the_loop) {
  start_trusted();
  disk->can_do_now = false;
  const uint64_t reads = device->metrics().reads.get();
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_vcpu_kick(0));
  EXPECT_FALSE(driver.take_used());
  EXPECT_FALSE(device->on_vcpu_kick(0)) << "one is under way";
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_TRUE(driver.take_used());
  EXPECT_EQ(memory->load<uint8_t>(kStatus), kOk);
  EXPECT_EQ(device->metrics().reads.get(), reads + 1);
}

TEST_F(VcpuBlockTest, what_waits_for_the_loop_is_done_before_save_and_reset) {
  for (const bool is_reset : {false, true}) {
    start_trusted();
    disk->can_do_now = false;
    add(RequestType::In, 0, 512, true);
    EXPECT_FALSE(device->on_vcpu_kick(0));
    if (is_reset) {
      device->reset();
    } else {
      (void)device->save();
    }
    EXPECT_TRUE(driver.take_used());
  }
}

TEST_F(VcpuBlockTest, disk_with_limits_is_for_the_loop) {
  BlockConfig config;
  config.limits.operations = {.size = 100, .one_time_burst = 0, .refill_time_ms = 1000};
  start(config);
  EXPECT_FALSE(device->takes_vcpu_kicks(0));
  start();
  EXPECT_TRUE(device->takes_vcpu_kicks(0));
}

TEST_F(BlockTest, any_split_into_descriptors_is_understood) {
  start();
  put_header(RequestType::Out, 1);
  memory->fill(kHeader + 16, std::byte{'h'}, 100);  // data right behind the header
  memory->fill(kData, std::byte{'d'}, 412);
  driver.add(std::array{Buffer{kHeader, 7, false}, Buffer{kHeader + 7, 109, false},
                        Buffer{kData, 412, false}, Buffer{kStatus, 1, true}});
  driver.publish();
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(memory->load<uint8_t>(kStatus), kOk);
  EXPECT_EQ(disk->bytes[512], std::byte{'h'});
  EXPECT_EQ(disk->bytes[612], std::byte{'d'});
  // The status as the last byte of the data's descriptor.
  put_header(RequestType::In, 1);
  driver.add(std::array{Buffer{kHeader, 16, false}, Buffer{kData, 513, true}});
  driver.publish();
  memory->fill(kData, std::byte{0xee}, 513);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(text_at(*memory, kData, 513), std::string(100, 'h') + std::string(412, 'd') + '\0');
}

TEST_F(BlockTest, requests_beyond_the_disk_fail) {
  start();
  constexpr uint64_t kSectors = kDiskBytes / 512;
  EXPECT_EQ(run(RequestType::In, kSectors - 1, 512), kOk);
  EXPECT_EQ(run(RequestType::In, kSectors, 512), kIoError);
  EXPECT_EQ(run(RequestType::In, kSectors - 1, 1024), kIoError);
  EXPECT_EQ(run(RequestType::In, ~uint64_t{0}, 512), kIoError);
  EXPECT_EQ(run(RequestType::Out, ~uint64_t{0} / 512, 512, false), kIoError);
  EXPECT_EQ(run(RequestType::In, 0, 511), kIoError);
  EXPECT_EQ(device->metrics().bad_requests.get(), 5U);
}

TEST_F(BlockTest, read_only_disk_refuses_every_change) {
  start({}, true);
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kIoError);
  EXPECT_EQ(run_segment(RequestType::Discard, 0, 8, 0), kIoError);
  EXPECT_EQ(run_segment(RequestType::WriteZeroes, 0, 8, 0), kIoError);
  EXPECT_EQ(run(RequestType::In, 0, 512), kOk);
  EXPECT_NE(device->offered_features() & block::kFeatureReadOnly, 0U);
  EXPECT_EQ(disk->seen, std::vector{DiskRequest::Kind::Read});
}

TEST_F(BlockTest, unknown_types_are_unsupported) {
  start();
  EXPECT_EQ(run(static_cast<RequestType>(2), 0), kUnsupported);
  EXPECT_EQ(run(static_cast<RequestType>(0xffff'ffff), 0), kUnsupported);
}

TEST_F(BlockTest, request_without_a_status_byte_breaks_the_queue) {
  start();
  put_header(RequestType::In, 0);
  driver.add(Buffer{kHeader, 16, false});
  driver.publish();
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_TRUE(active->queue(0)->is_broken());
}

TEST_F(BlockTest, short_header_is_an_error) {
  start();
  driver.add(std::array{Buffer{kHeader, 15, false}, Buffer{kStatus, 1, true}});
  driver.publish();
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(memory->load<uint8_t>(kStatus), kIoError);
}

TEST_F(BlockTest, serial_is_told_padded_with_zeros) {
  start({.serial = "disk-one", .queues = 1, .limits = {}});
  EXPECT_EQ(run(RequestType::GetId, 0, 20), kOk);
  EXPECT_EQ(text_at(*memory, kData, 20), "disk-one" + std::string(12, '\0'));
}

TEST_F(BlockTest, write_zeroes_and_discard_check_their_segment) {
  start();
  memory->fill(kData, std::byte{0x5a}, 512);
  EXPECT_EQ(run(RequestType::Out, 9, 512, false), kOk);
  EXPECT_EQ(run_segment(RequestType::WriteZeroes, 9, 1, 1), kOk);
  EXPECT_EQ(disk->bytes[9 * 512], std::byte{0});
  EXPECT_EQ(run_segment(RequestType::Discard, 0, 2048, 0), kOk);
  EXPECT_EQ(run_segment(RequestType::Discard, 0, 2049, 0), kIoError);
  EXPECT_EQ(run_segment(RequestType::Discard, ~uint64_t{0}, 1, 0), kIoError);
  EXPECT_EQ(run_segment(RequestType::Discard, 0, 1, 1), kUnsupported);
  EXPECT_EQ(run_segment(RequestType::WriteZeroes, 0, 1, 2), kUnsupported);
  EXPECT_EQ(run_segment(RequestType::WriteZeroes, 0, ~uint32_t{0}, 0), kIoError);
  EXPECT_EQ(run(RequestType::Discard, 0, 15, false), kIoError);
  EXPECT_EQ(run(RequestType::Discard, 0, 32, false), kIoError);
}

TEST_F(BlockTest, host_error_becomes_an_io_error_and_the_device_goes_on) {
  start();
  disk->os_error = ENOSPC;
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kIoError);
  EXPECT_EQ(run(RequestType::In, 0, 512), kIoError);
  EXPECT_EQ(run(RequestType::Flush, 0), kIoError);
  EXPECT_EQ(device->metrics().host_errors.get(), 3U);
  disk->os_error = 0;
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kOk);
}

TEST_F(BlockTest, writes_are_durable_when_the_driver_cannot_flush) {
  start({}, false, 0);
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kOk);
  EXPECT_TRUE(disk->last_was_durable);
}

TEST_F(BlockTest, write_cache_follows_the_configuration) {
  start({}, false, block::kFeatureFlush | block::kFeatureConfigWce);
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kOk);
  EXPECT_FALSE(disk->last_was_durable);
  const std::byte off{0};
  device->write_config(32, {&off, 1});
  EXPECT_EQ(run(RequestType::Out, 0, 512, false), kOk);
  EXPECT_TRUE(disk->last_was_durable);
  std::byte value{0xff};
  device->read_config(32, {&value, 1});
  EXPECT_EQ(value, std::byte{0});
  // Everything else is read-only.
  const uint64_t all = ~uint64_t{0};
  device->write_config(0, std::as_bytes(std::span(&all, 1)));
  uint64_t capacity = 0;
  device->read_config(0, std::as_writable_bytes(std::span(&capacity, 1)));
  EXPECT_EQ(capacity, kDiskBytes / 512);
}

TEST_F(BlockTest, late_answers_arrive_out_of_turn_with_one_interrupt) {
  start();
  disk->is_holding = true;
  add(RequestType::In, 0, 512, true);
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(driver.used_idx(), 0);
  disk->complete_held();
  EXPECT_EQ(driver.used_idx(), 2);
  EXPECT_EQ(interrupt.used, 1);
}

TEST_F(BlockTest, reset_waits_for_what_is_under_way) {
  start();
  disk->is_holding = true;
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_kick(0));
  device->reset();
  EXPECT_TRUE(disk->held.empty());
  EXPECT_FALSE(device->on_kick(0));
}

TEST_F(BlockTest, save_gives_everything_back_first) {
  start();
  disk->is_holding = true;
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_kick(0));
  const std::byte off{0};
  device->write_config(32, {&off, 1});
  const BlockState state = device->save();
  EXPECT_FALSE(state.is_writeback);
  EXPECT_EQ(driver.used_idx(), 1);
  EXPECT_EQ(interrupt.used, 1);
  const QueueState queue = active->queue(0)->save();
  EXPECT_EQ(queue.next_avail, queue.next_used);
  start();
  device->restore(state);
  EXPECT_EQ(device->save(), state);
}

TEST_F(BlockTest, operations_over_the_limit_wait_in_the_ring) {
  BlockConfig config;
  config.limits.operations = {.size = 2, .one_time_burst = 1, .refill_time_ms = 20};
  start(config);
  for (int i = 0; i < 5; ++i) add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(driver.used_idx(), 3);  // two and the burst
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(driver.used_idx(), 3);
  EXPECT_EQ(device->metrics().throttled.get(), 1U);
  clock.now_ns += 10'000'000;  // one token more; the timer runs on the real clock
  loop->start_timer(std::chrono::milliseconds(40), [&] { loop->stop(); });
  loop->run();
  EXPECT_EQ(again, std::vector<uint16_t>{0});
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(driver.used_idx(), 4);
}

TEST_F(BlockTest, bytes_over_the_limit_wait_but_flushes_do_not) {
  BlockConfig config;
  config.limits.bandwidth = {.size = 1024, .one_time_burst = 0, .refill_time_ms = 1000};
  start(config);
  EXPECT_EQ(run(RequestType::In, 0, 1024), kOk);
  EXPECT_EQ(run(RequestType::Flush, 0), kOk);
  add(RequestType::In, 0, 512, true);
  EXPECT_FALSE(device->on_kick(0));
  EXPECT_EQ(driver.used_idx(), 2);
}

TEST_F(BlockTest, several_queues_are_told) {
  start({.serial = {}, .queues = 4, .limits = {}});
  EXPECT_EQ(device->queue_max_sizes().size(), 4U);
  EXPECT_NE(device->offered_features() & block::kFeatureMultiQueue, 0U);
  uint16_t queues = 0;
  device->read_config(34, std::as_writable_bytes(std::span(&queues, 1)));
  EXPECT_EQ(queues, 4);
}

}  // namespace
}  // namespace trapeze
