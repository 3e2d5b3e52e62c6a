// A back end that writes anything into its rings, a driver that writes anything into its own, and a
// connection that comes and goes. Nothing may crash, hang, or grow.
#include <sys/eventfd.h>
#include <unistd.h>

#include <memory>

#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"
#include "virtio/vhost_user/device.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint16_t kQueues = 2;
constexpr uint16_t kRingSize = 16;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr Gpa kData{64 * KiB};

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

// The rings are in this process: their user addresses are pointers.
struct FuzzPort final : VhostUserBackend {
  void attach(VhostUserClient* new_client) override { client = new_client; }
  bool is_ready() const override { return is_connected && setup.rings.empty(); }
  void start(const VhostUserSetup& new_setup) override { setup = new_setup; }
  void stop() override { setup = {}; }
  void reject(std::string_view) override { lose(); }
  void write_config(uint32_t, std::span<const std::byte>) override {}
  void lose() {
    if (!is_connected) return;
    is_connected = false;
    is_started = false;
    setup = {};
    client->backend_lost();
  }
  bool is_connected = true;
  bool is_started = false;
  VhostUserClient* client = nullptr;
  VhostUserSetup setup;
};

void use_ring(FuzzPort& port, FuzzInput& input) {
  if (port.setup.rings.empty()) return;
  const VhostUserRing& ring =
      port.setup.rings[input.below(static_cast<uint32_t>(port.setup.rings.size()))];
  auto* const used = reinterpret_cast<std::byte*>(ring.used);
  uint16_t idx = 0;
  std::memcpy(&idx, used + 2, 2);
  switch (input.below(4)) {
    case 0: {  // an answer, mostly to something that is there
      const uint32_t element[2] = {input.below(8) == 0 ? input.take<uint32_t>() : input.below(40),
                                   input.below(8) == 0 ? input.take<uint32_t>() : input.below(64)};
      std::memcpy(used + 4 + (idx % ring.size) * size_t{8}, element, sizeof(element));
      ++idx;
      std::memcpy(used + 2, &idx, 2);
      break;
    }
    case 1:
      idx = input.below(2) == 0 ? input.take<uint16_t>()
                                : static_cast<uint16_t>(idx + input.below(5));
      std::memcpy(used + 2, &idx, 2);
      break;
    case 2: {
      const auto bytes = input.take_bytes(input.below(64));
      const uint32_t at = input.below(static_cast<uint32_t>(ShadowQueue::kBytes) - 64);
      if (!bytes.empty()) {
        std::memcpy(reinterpret_cast<std::byte*>(ring.desc) + at, bytes.data(), bytes.size());
      }
      break;
    }
    default:
      break;
  }
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(ring.call_fd, &one, sizeof(one));
}

struct Guest {
  explicit Guest(GuestMemory& guest_memory, VhostUserModel model)
      : memory(guest_memory), device(std::move(model), port, memory, *loop) {}
  void start(QueueFeatures features) {
    active.emplace(ActiveState{memory, interrupt, kFeatureVersion1, [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), features, 256);
    }
    device.activate(*active);
  }
  void offer(uint16_t queue, FuzzInput& input) {
    const QueueConfig rings = active->queue(queue)->save().config;
    const auto slot = static_cast<uint16_t>(input.below(kRingSize));
    const auto next = static_cast<uint16_t>((slot + 1) % kRingSize);
    const uint32_t odd = input.below(8);
    memory.store(rings.desc + uint64_t{slot} * 16,
                 split_ring::Descriptor{(kData + input.below(1000)).raw(),
                                        odd == 0 ? input.take<uint32_t>() : 60, 1, next});
    memory.store(rings.desc + uint64_t{next} * 16,
                 split_ring::Descriptor{(kData + input.below(1000)).raw(),
                                        odd == 1 ? input.take<uint32_t>() : 64, 2, 0});
    const uint16_t idx = memory.load<uint16_t>(rings.avail + 2).value_or(0);
    memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
    memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
  }
  void run_loop() {
    loop->start_timer(std::chrono::microseconds(1), [this] { loop->stop(); });
    loop->run();
  }

  GuestMemory& memory;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FuzzInterrupt interrupt;
  FuzzPort port;
  std::optional<ActiveState> active;
  VhostUserDevice device;
};

void step(Guest& guest, FuzzInput& input, const VhostUserInfo& info) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  FuzzPort& port = guest.port;
  switch (input.below(8)) {
    case 0:
    case 1:
      guest.offer(queue, input);
      [[fallthrough]];
    case 2:
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    case 3:
    case 4:
      use_ring(port, input);
      guest.run_loop();
      break;
    case 5:
      guest.memory.write(Gpa{input.below(kQueues * kQueueStride)},
                         std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 6:
      if (!port.setup.rings.empty() && !port.is_started) {
        port.is_started = true;
        port.client->backend_started();
      }
      break;
    default:
      if (port.is_connected) {
        port.lose();
      } else {
        port.is_connected = true;
        if (!port.client->backend_ready(info)) port.lose();
      }
      break;
  }
}

VhostUserModel make_model(uint8_t kind, const VhostUserInfo& info) {
  if (kind == 0) return std::move(vhost_user_fs_model(info, "tag")).value();
  if (kind == 1) return std::move(vhost_user_net_model(info, {2, 0, 0, 0, 0, 1})).value();
  return std::move(vhost_user_block_model(
                       info, {.queues = kQueues,
                              .give_up_after = kind == 2 ? std::chrono::nanoseconds(0)
                                                         : std::chrono::milliseconds(1)}))
      .value();
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  set_log_level(LogLevel::Error);
  static const std::unique_ptr<GuestMemory> memory = [] {
    const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, kRamBytes}};
    return std::move(GuestMemory::create(ram, GuestMemory::Backing::Shared)).value();
  }();
  FuzzInput input(data, size);
  VhostUserInfo info{.features = input.take<uint64_t>() | kFeatureVersion1,
                     .queues = kQueues,
                     .config = std::vector<std::byte>(kVhostUserBlockConfigBytes)};
  const auto flags = input.take<uint8_t>();
  memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
  Guest guest(*memory, make_model(flags & 3, info));
  for (int round = 0; round < 2 && !input.is_empty(); ++round) {
    guest.start({.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0});
    for (int i = 0; i < 150 && !input.is_empty(); ++i) step(guest, input, info);
    // What is in flight would be waited for, a second each time.
    guest.port.lose();
    guest.device.reset();
    guest.port.is_connected = true;
  }
  return 0;
}
