// A driver that writes anything into the rings, lists and registers of a virtio-balloon, and an
// administrator who asks for sizes and statistics. Nothing may crash, hang, or grow, and no byte
// outside guest RAM may change.
#include <memory>

#include "virtio/balloon/device.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr uint16_t kQueues = 4;
constexpr uint16_t kRingSize = 16;

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  explicit Guest(GuestMemory& guest_memory) : memory(guest_memory) {}
  void start(uint64_t features, QueueFeatures ring) {
    active.emplace(ActiveState{memory, interrupt, features, [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, ring);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), ring, 256);
    }
    device.activate(*active);
  }
  void offer(uint16_t queue, uint16_t slot, const split_ring::Descriptor& descriptor) {
    const QueueConfig rings = active->queue(queue)->save().config;
    memory.store(rings.desc + uint64_t{slot} * 16, descriptor);
    const uint16_t idx = memory.load<uint16_t>(rings.avail + 2).value_or(0);
    memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
    memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
  }

  GuestMemory& memory;
  FuzzInterrupt interrupt;
  std::optional<ActiveState> active;
  BalloonDevice device{64 * KiB};
};

void step(Guest& guest, FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(6)) {
    case 0: {
      const auto slot = static_cast<uint16_t>(input.below(kRingSize));
      const auto flags = static_cast<uint16_t>(input.below(8));
      const auto next = static_cast<uint16_t>(input.below(kRingSize));
      guest.offer(queue, slot, {input.below(kRamBytes + 4096), input.below(20'000), flags, next});
      break;
    }
    case 1:
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    case 2:
      guest.memory.write(Gpa{input.below(kRamBytes)},
                         std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 3: {
      const auto value = input.take<uint32_t>();
      const auto bytes = std::as_bytes(std::span(&value, 1)).first(1 + input.below(4));
      guest.device.write_config(input.below(static_cast<uint32_t>(17 - bytes.size())), bytes);
      break;
    }
    case 4:
      guest.device.set_target(input.take<uint64_t>());
      break;
    default:
      (void)guest.device.request_stats([](const BalloonStats&) {});
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static const std::unique_ptr<GuestMemory> memory = [] {
    const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, kRamBytes}};
    return std::move(GuestMemory::create(ram)).value();
  }();
  FuzzInput input(data, size);
  Guest guest(*memory);
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
    const auto flags = input.take<uint8_t>();
    const uint64_t features = guest.device.offered_features() & input.take<uint8_t>();
    guest.start(features, {.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0});
    for (int i = 0; i < 200 && !input.is_empty(); ++i) step(guest, input);
    if ((flags & 4) != 0) guest.device.restore(guest.device.save());
    guest.device.reset();
  }
  return 0;
}
