// A driver that writes anything into the rings and requests of a disk. Nothing may crash or hang;
// what reaches the disk lies within it (FakeDisk checks).
#include <memory>

#include "virtio/block/device.h"
#include "virtio/block/fake_disk.h"
#include "virtio/queue/fuzz_guest.h"

namespace trapeze {
namespace {

constexpr uint16_t kQueues = 2;
constexpr Gpa kRequests = FuzzRings::kData;

struct Guest {
  Guest(EventLoop& loop, FuzzInput& input)
      : flags(input.take<uint8_t>()),
        disk(64 * KiB, (flags & 1) != 0),
        device(config(flags), disk, loop, clock) {}
  static BlockConfig config(uint8_t flags) {
    BlockConfig config{.serial = "fuzz", .queues = kQueues, .limits = {}};
    if ((flags & 2) != 0) {
      config.limits.bandwidth = {.size = 8192, .one_time_burst = 100, .refill_time_ms = 1};
      config.limits.operations = {.size = 5, .one_time_burst = 5, .refill_time_ms = 1};
    }
    return config;
  }
  void start() {
    rings.start(device, device.offered_features(),
                {.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0});
  }
  void step(FuzzInput& input);
  void send_request(FuzzInput& input, uint16_t queue);

  const uint8_t flags;
  FuzzRings rings{kQueues};
  FakeClock clock;
  FakeDisk disk;
  BlockDevice device;
};

// A request of three descriptors with values around those that count.
void Guest::send_request(FuzzInput& input, uint16_t queue) {
  static constexpr std::array<uint32_t, 8> kTypes{0, 1, 4, 8, 11, 13, 2, 0xffff'ffff};
  const uint32_t slot = input.below(5) * 3;
  const Gpa header = kRequests + slot * 64;
  uint64_t sector = input.below(140);
  if (sector > 130) sector = ~uint64_t{0} >> input.below(64);
  rings.memory().store(header, block::RequestHeader{kTypes[input.below(8)], 0, sector});
  rings.memory().store(header + 16,
                       block::DiscardSegment{input.below(140), input.below(200), input.below(3)});
  const uint32_t writable = input.below(2) * 2;
  const uint32_t bytes = input.below(4) == 0 ? input.below(3000) : input.below(8) * 512;
  rings.set_descriptor(queue, slot, header, input.below(8) == 0 ? input.below(40) : 16, 1);
  rings.set_descriptor(queue, slot + 1, input.below(2) == 0 ? header + 16 : kRequests + 8 * KiB,
                       bytes, 1 | writable);
  rings.set_descriptor(queue, slot + 2, header + 60, 1 + input.below(2), 2);
  rings.offer(queue, slot);
}

void Guest::step(FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(10)) {
    case 0:
    case 1:
    case 2:
      send_request(input, queue);
      [[fallthrough]];
    case 3:
      FuzzRings::kick(device, queue);
      break;
    case 8:
      // As many as make the device trust that there is one at a time.
      for (uint32_t left = input.below(12); left != 0; --left) {
        send_request(input, queue);
        disk.can_do_now = input.below(4) != 0;
        FuzzRings::ring(device, queue);
      }
      break;
    case 4:
      rings.scribble(input);
      break;
    case 5:
      disk.is_holding = input.below(2) != 0;
      disk.complete_held();
      break;
    case 6:
      disk.os_error = input.below(3) == 0 ? 5 : 0;
      clock.now_ns += input.below(5000) * 1000;
      break;
    case 7:
      FuzzRings::use_config(device, input);
      break;
    default:
      device.restore(device.save());
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  return fuzz_device<Guest>(data, size, *loop);
}
