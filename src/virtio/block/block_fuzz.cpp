// A driver that writes anything into the rings and requests of a disk. Nothing may crash or hang;
// what reaches the disk lies within it (FakeDisk checks).
#include <memory>

#include "virtio/block/device.h"
#include "virtio/block/fake_disk.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr uint16_t kQueues = 2;
constexpr uint16_t kRingSize = 16;
constexpr Gpa kRequests{64 * KiB};

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  Guest(GuestMemory& guest_memory, EventLoop& guest_loop, FuzzInput& input)
      : memory(guest_memory),
        flags(input.take<uint8_t>()),
        disk(64 * KiB, (flags & 1) != 0),
        device(config(flags), disk, guest_loop, clock) {}
  static BlockConfig config(uint8_t flags) {
    BlockConfig config{.serial = "fuzz", .queues = kQueues, .limits = {}};
    if ((flags & 2) != 0) {
      config.limits.bandwidth = {.size = 8192, .one_time_burst = 100, .refill_time_ms = 1};
      config.limits.operations = {.size = 5, .one_time_burst = 5, .refill_time_ms = 1};
    }
    return config;
  }
  void start() {
    const QueueFeatures features{.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0};
    active.emplace(ActiveState{memory, interrupt, device.offered_features(), [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), features, 256);
    }
    device.activate(*active);
  }

  GuestMemory& memory;
  const uint8_t flags;
  FakeClock clock;
  FuzzInterrupt interrupt;
  std::optional<ActiveState> active;
  FakeDisk disk;
  BlockDevice device;
};

// A request of three descriptors with values around those that count.
void send_request(Guest& guest, FuzzInput& input, uint16_t queue) {
  static constexpr std::array<uint32_t, 8> kTypes{0, 1, 4, 8, 11, 13, 2, 0xffff'ffff};
  const uint16_t slot = static_cast<uint16_t>(input.below(5) * 3);
  const Gpa header = kRequests + slot * 64;
  uint64_t sector = input.below(140);
  if (sector > 130) sector = ~uint64_t{0} >> input.below(64);
  guest.memory.store(header, block::RequestHeader{kTypes[input.below(8)], 0, sector});
  guest.memory.store(header + 16,
                     block::DiscardSegment{input.below(140), input.below(200), input.below(3)});
  const QueueConfig rings = guest.active->queue(queue)->save().config;
  const auto put = [&](unsigned index, Gpa at, uint32_t len, uint32_t descriptor_flags) {
    guest.memory.store(
        rings.desc + (slot + index) * 16,
        split_ring::Descriptor{at.raw(), len, static_cast<uint16_t>(descriptor_flags),
                               static_cast<uint16_t>(slot + index + 1)});
  };
  const uint32_t writable = input.below(2) * 2;
  const uint32_t bytes = input.below(4) == 0 ? input.below(3000) : input.below(8) * 512;
  put(0, header, input.below(8) == 0 ? input.below(40) : 16, 1);
  put(1, input.below(2) == 0 ? header + 16 : kRequests + 8 * KiB, bytes, 1 | writable);
  put(2, header + 60, 1 + input.below(2), 2);
  const uint16_t idx = guest.memory.load<uint16_t>(rings.avail + 2).value_or(0);
  guest.memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
  guest.memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
}

void step(Guest& guest, FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(9)) {
    case 0:
    case 1:
    case 2:
      send_request(guest, input, queue);
      [[fallthrough]];
    case 3:
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    case 4:
      guest.memory.write(Gpa{input.below(kQueues * kQueueStride)},
                         std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 5:
      guest.disk.is_holding = input.below(2) != 0;
      guest.disk.complete_held();
      break;
    case 6:
      guest.disk.os_error = input.below(3) == 0 ? 5 : 0;
      guest.clock.now_ns += input.below(5000) * 1000;
      break;
    case 7: {
      const uint32_t offset = input.below(block::kConfigBytes);
      std::array<std::byte, 8> bytes{};
      const size_t size = std::min<size_t>(8, block::kConfigBytes - offset);
      guest.device.write_config(offset, std::span(bytes).first(size));
      guest.device.read_config(offset, std::span(bytes).first(size));
      break;
    }
    default:
      guest.device.restore(guest.device.save());
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static const std::unique_ptr<GuestMemory> memory = [] {
    set_log_level(LogLevel::Error);
    const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, kRamBytes}};
    return std::move(GuestMemory::create(ram)).value();
  }();
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FuzzInput input(data, size);
  Guest guest(*memory, *loop, input);
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
    guest.start();
    for (int i = 0; i < 100 && !input.is_empty(); ++i) step(guest, input);
    guest.device.reset();
  }
  return 0;
}
