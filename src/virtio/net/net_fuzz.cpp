// A driver that writes anything into the rings, frames and commands of a network card, while frames
// come and the back end blocks, drops and goes away. Nothing may crash or hang.
#include <memory>

#include "base/log.h"
#include "virtio/net/device.h"
#include "virtio/net/fake_backend.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr uint16_t kPairs = 2;
constexpr uint16_t kQueues = kPairs * 2 + 1;
constexpr uint16_t kRingSize = 16;
constexpr Gpa kData{64 * KiB};

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  Guest(GuestMemory& guest_memory, EventLoop& guest_loop, FuzzInput& input)
      : memory(guest_memory),
        flags(input.take<uint8_t>()),
        features(input.take<uint32_t>()),
        backend(kPairs, net::kHostOffloads | net::kGuestOffloads),
        device(config(flags), backend, guest_loop, clock) {
    backend.is_keeping = false;
  }
  static NetDeviceConfig config(uint8_t flags) {
    NetDeviceConfig config;
    if ((flags & 1) != 0) {
      config.send_limits.bandwidth = {.size = 2000, .one_time_burst = 10, .refill_time_ms = 1};
      config.receive_limits.operations = {.size = 3, .one_time_burst = 1, .refill_time_ms = 1};
    }
    return config;
  }
  void start() {
    const QueueFeatures queue_features{.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0};
    active.emplace(
        ActiveState{memory, interrupt, features & device.offered_features(), [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, queue_features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), queue_features, 256);
    }
    device.activate(*active);
  }

  GuestMemory& memory;
  const uint8_t flags;
  const uint64_t features;
  FakeClock clock;
  FuzzInterrupt interrupt;
  std::optional<ActiveState> active;
  FakeNetBackend backend;
  NetDevice device;
};

// One or two descriptors with sizes around those that count.
void add_chain(Guest& guest, FuzzInput& input, uint16_t queue, bool is_writable) {
  static constexpr std::array<uint32_t, 8> kSizes{1, 2, 11, 12, 13, 64, 1526, 40000};
  const auto slot = static_cast<uint16_t>(input.below(kRingSize / 2) * 2);
  const QueueConfig rings = guest.active->queue(queue)->save().config;
  const bool has_two = input.below(2) != 0;
  for (uint16_t i = 0; i < (has_two ? 2 : 1); ++i) {
    const bool is_last = i == 1 || !has_two;
    const unsigned flags = (is_last ? 0U : 1U) | (is_writable || input.below(16) == 0 ? 2U : 0U);
    guest.memory.store(
        rings.desc + (slot + i) * 16U,
        split_ring::Descriptor{(kData + input.below(32 * 1024)).raw(), kSizes[input.below(8)],
                               static_cast<uint16_t>(flags), static_cast<uint16_t>(slot + 1)});
  }
  const uint16_t idx = guest.memory.load<uint16_t>(rings.avail + 2).value_or(0);
  guest.memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
  guest.memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
}

void send_command(Guest& guest, FuzzInput& input) {
  const QueueConfig rings = guest.active->queue(kQueues - 1)->save().config;
  guest.memory.store(kData, net::ControlHeader{static_cast<uint8_t>(input.below(7)),
                                               static_cast<uint8_t>(input.below(3))});
  guest.memory.store(kData + 2, input.take<uint64_t>());
  static constexpr std::array<uint32_t, 5> kSizes{2, 4, 8, 10, 30};
  guest.memory.store(rings.desc, split_ring::Descriptor{kData.raw(), kSizes[input.below(5)], 1, 1});
  guest.memory.store(rings.desc + 16, split_ring::Descriptor{(kData + 100).raw(), 1, 2, 0});
  const uint16_t idx = guest.memory.load<uint16_t>(rings.avail + 2).value_or(0);
  guest.memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, uint16_t{0});
  guest.memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
}

void step(Guest& guest, FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  const auto pair = static_cast<uint16_t>(queue / 2 % kPairs);
  switch (input.below(10)) {
    case 0:
    case 1:
    case 2:
      for (uint32_t i = input.below(6); i > 0; --i) add_chain(guest, input, queue, queue % 2 == 0);
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
      if (guest.backend.queued[pair].size() < 8) {
        guest.backend.arrive(std::string(input.below(4) == 0 ? 60000 : input.below(3000), 'f'),
                             pair);
      }
      guest.backend.tell_ready(pair);
      break;
    case 6:
      guest.backend.room = input.below(4) == 0 ? input.below(4) : ~size_t{0};
      guest.backend.is_refusing = input.below(4) == 0;
      guest.backend.tell_ready(pair);
      guest.clock.now_ns += input.below(5000) * 1000;
      break;
    case 7: {
      const uint32_t offset = input.below(net::kConfigBytes);
      std::array<std::byte, 8> bytes{};
      const size_t size = std::min<size_t>(8, net::kConfigBytes - offset);
      guest.device.write_config(offset, std::span(bytes).first(size));
      guest.device.read_config(offset, std::span(bytes).first(size));
      if (input.below(32) == 0) guest.backend.is_lost = true;
      break;
    }
    case 8:
      send_command(guest, input);
      (void)guest.device.on_kick(kQueues - 1);
      break;
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
