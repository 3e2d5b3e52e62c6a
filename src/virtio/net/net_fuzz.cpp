// A driver that writes anything into the rings, frames and commands of a network card, while frames
// come and the back end blocks, drops and goes away. Nothing may crash or hang.
#include <memory>

#include "virtio/net/device.h"
#include "virtio/net/fake_backend.h"
#include "virtio/queue/fuzz_guest.h"

namespace trapeze {
namespace {

constexpr uint16_t kPairs = 2;
constexpr uint16_t kQueues = kPairs * 2 + 1;
constexpr Gpa kData = FuzzRings::kData;

struct Guest {
  Guest(EventLoop& loop, FuzzInput& input)
      : flags(input.take<uint8_t>()),
        features(input.take<uint32_t>()),
        backend(kPairs, net::kHostOffloads | net::kGuestOffloads),
        device(config(flags), backend, loop, clock) {
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
    rings.start(device, features & device.offered_features(),
                {.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0});
  }
  void step(FuzzInput& input);
  void add_chain(FuzzInput& input, uint16_t queue, bool is_writable);
  void send_command(FuzzInput& input);
  void receive(FuzzInput& input, uint16_t pair);

  const uint8_t flags;
  const uint64_t features;
  FuzzRings rings{kQueues};
  FakeClock clock;
  FakeNetBackend backend;
  NetDevice device;
};

// One or two descriptors with sizes around those that count.
void Guest::add_chain(FuzzInput& input, uint16_t queue, bool is_writable) {
  static constexpr std::array<uint32_t, 8> kSizes{1, 2, 11, 12, 13, 64, 1526, 40000};
  const uint32_t slot = input.below(FuzzRings::kRingSize / 2) * 2;
  const bool has_two = input.below(2) != 0;
  for (uint32_t i = 0; i < (has_two ? 2U : 1U); ++i) {
    const bool is_last = i == 1 || !has_two;
    const unsigned descriptor_flags =
        (is_last ? 0U : 1U) | (is_writable || input.below(16) == 0 ? 2U : 0U);
    rings.set_descriptor(queue, slot + i, kData + input.below(32 * 1024), kSizes[input.below(8)],
                         descriptor_flags);
  }
  rings.offer(queue, slot);
}

void Guest::send_command(FuzzInput& input) {
  constexpr uint16_t kControl = kQueues - 1;
  rings.memory().store(kData, net::ControlHeader{static_cast<uint8_t>(input.below(7)),
                                                 static_cast<uint8_t>(input.below(3))});
  rings.memory().store(kData + 2, input.take<uint64_t>());
  static constexpr std::array<uint32_t, 5> kSizes{2, 4, 8, 10, 30};
  rings.set_descriptor(kControl, 0, kData, kSizes[input.below(5)], 1);
  rings.set_descriptor(kControl, 1, kData + 100, 1, 2);
  rings.offer(kControl, 0);
  (void)device.on_kick(kControl);
}

void Guest::receive(FuzzInput& input, uint16_t pair) {
  if (backend.queued[pair].size() < 8) {
    backend.arrive(std::string(input.below(4) == 0 ? 60000 : input.below(3000), 'f'), pair);
  }
  backend.tell_ready(pair);
}

void Guest::step(FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  const auto pair = static_cast<uint16_t>(queue / 2 % kPairs);
  switch (input.below(10)) {
    case 0:
    case 1:
    case 2:
      for (uint32_t i = input.below(6); i > 0; --i) add_chain(input, queue, queue % 2 == 0);
      [[fallthrough]];
    case 3:
      FuzzRings::kick(device, queue);
      break;
    case 4:
      rings.scribble(input);
      break;
    case 5:
      receive(input, pair);
      break;
    case 6:
      backend.room = input.below(4) == 0 ? input.below(4) : ~size_t{0};
      backend.is_refusing = input.below(4) == 0;
      backend.tell_ready(pair);
      clock.now_ns += input.below(5000) * 1000;
      break;
    case 7:
      FuzzRings::use_config(device, input);
      if (input.below(32) == 0) backend.is_lost = true;
      break;
    case 8:
      send_command(input);
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
