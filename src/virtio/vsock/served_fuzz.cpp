// A driver that writes anything into the rings of a virtio-vsock that somebody else serves, and a
// service that starts, refuses, calls and stops where it likes. The rings are handed over and taken
// back in every state; what the service says of them must not be believed.
#include <sys/eventfd.h>

#include "base/event_fd.h"
#include "virtio/fake_ring_service.h"
#include "virtio/queue/fuzz_guest.h"
#include "virtio/vsock/served_device.h"

namespace trapeze {
namespace {

constexpr uint16_t kQueues = 3;

struct LyingService final : RingService {
  uint64_t features() const override { return fake.features(); }
  Result<void> start(uint64_t features, std::span<const ServedMemory> table,
                     std::span<const ServedRing> rings) override {
    for (const ServedRing& ring : rings) {
      CHECK(ring.desc != nullptr && ring.avail != nullptr && ring.used != nullptr);
      CHECK(ring.size != 0 && ring.call != nullptr && ring.kick != nullptr);
    }
    return fake.start(features, table, rings);
  }
  Result<void> set_call(uint16_t queue, const Fd& call) override {
    return fake.set_call(queue, call);
  }
  uint16_t stop(uint16_t) override {
    fake.running.clear();  // its interrupts end with it
    return stands_at;
  }

  FakeRingService fake;
  uint16_t stands_at = 0;
};

struct Guest {
  explicit Guest(FuzzInput& input) : flags(input.take<uint8_t>()) {}
  void start() {
    if ((flags & 4) != 0) device.restore({});
    const uint64_t features = device.offered_features() | kTransportFeatures;
    rings.start(device, features, {.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0},
                [this](uint16_t) -> const Fd& { return doorbell; });
  }
  void step(FuzzInput& input);
  void run_loop() {
    loop->start_timer(std::chrono::nanoseconds(0), [this] { loop->stop(); });
    loop->run();
  }

  const uint8_t flags;
  FuzzRings rings{kQueues};
  LyingService service;
  Fd doorbell{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  ServedVsockDevice device{3, service, *loop};
};

void Guest::step(FuzzInput& input) {
  switch (input.below(8)) {
    case 0:
      rings.set_descriptor(vsock::kEventQueue, input.below(FuzzRings::kRingSize), FuzzRings::kData,
                           input.below(64), 2);
      rings.offer(vsock::kEventQueue, input.below(FuzzRings::kRingSize));
      break;
    case 1:
      FuzzRings::kick(device, static_cast<uint16_t>(input.below(kQueues)));
      break;
    case 2:
      rings.scribble(input);
      break;
    case 3:
      service.stands_at = input.take<uint16_t>();
      service.fake.is_refusing = input.below(4) == 0;
      break;
    case 4:
      (void)device.save();
      break;
    case 5:
      device.resume();
      break;
    case 6:
      device.interrupts_moved();
      break;
    default:
      for (const ServedRing& ring : service.fake.running) signal_event(*ring.call);
      run_loop();
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return trapeze::fuzz_device<trapeze::Guest>(data, size);
}
