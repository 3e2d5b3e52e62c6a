// A driver that writes anything into the rings and requests of a virtio-pmem. Nothing may crash,
// hang or grow.
#include <memory>

#include "virtio/pmem/device.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 64 * KiB;
constexpr uint16_t kRingSize = 16;

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue == 0); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Backing final : PmemBacking {
  bool flush() override { return (++flushes & 1) != 0; }
  unsigned flushes = 0;
};

void offer(GuestMemory& memory, const QueueConfig& rings, uint16_t slot,
           const split_ring::Descriptor& descriptor) {
  memory.store(rings.desc + uint64_t{slot} * 16, descriptor);
  const uint16_t idx = memory.load<uint16_t>(rings.avail + 2).value_or(0);
  memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
  memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
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
  FuzzInterrupt interrupt;
  Backing backing;
  PmemDevice device({Gpa{4 * GiB}, 2 * MiB}, backing);
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
    const auto flags = input.take<uint8_t>();
    const QueueFeatures features{.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0};
    ActiveState active{*memory, interrupt, 0, [](uint16_t) {}, {}};
    const TestDriver layout(*memory, kRingSize, Gpa{0}, features);
    active.queues.emplace_back(std::in_place, *memory);
    (void)active.queue(0)->configure(layout.config(), features, 256);
    device.activate(active);
    for (int i = 0; i < 200 && !input.is_empty(); ++i) {
      switch (input.below(3)) {
        case 0: {
          const auto slot = static_cast<uint16_t>(input.below(kRingSize));
          const auto desc_flags = static_cast<uint16_t>(input.below(8));
          const auto next = static_cast<uint16_t>(input.below(kRingSize));
          offer(*memory, layout.config(), slot,
                {input.below(kRamBytes + 4096), input.below(64), desc_flags, next});
          break;
        }
        case 1:
          for (int turn = 0; turn < 4 && device.on_kick(0); ++turn) {
          }
          break;
        default:
          memory->write(Gpa{input.below(kRamBytes)},
                        std::as_bytes(input.take_bytes(input.below(64))));
          break;
      }
    }
    device.reset();
  }
  return 0;
}
