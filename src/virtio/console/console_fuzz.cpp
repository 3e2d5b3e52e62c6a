// A driver that writes anything into the console's rings and control messages, with back ends that
// take and give bytes as they like. Nothing may crash, hang, or grow.
#include <memory>

#include "virtio/console/device.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint16_t kQueues = 8;
constexpr uint64_t kQueueStride = 4 * KiB;

struct FuzzPort final : ConsolePort {
  void attach(ConsoleGuest* to) override { guest = to; }
  size_t receive(std::span<const std::byte> bytes) override {
    CHECK(!bytes.empty());
    const size_t taken = std::min(bytes.size(), room);
    if (room != kEndless) room -= taken;
    return taken;
  }
  void on_guest_ready() override {
    const std::array<std::byte, 16> bytes{};
    if (guest != nullptr && sends_when_ready) CHECK(guest->send(bytes) <= bytes.size());
  }
  void on_guest_open(bool open) override {
    CHECK(open != is_open);
    is_open = open;
  }
  static constexpr size_t kEndless = ~size_t{0};
  ConsoleGuest* guest = nullptr;
  size_t room = kEndless;
  bool sends_when_ready = false;
  bool is_open = false;
};

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  Guest() : ports(3), device(config(ports)) {}
  static ConsoleConfig config(std::vector<FuzzPort>& ports) {
    return {
        .ports = {{"tty", true, &ports[0]}, {"agent", false, &ports[1]}, {"", true, &ports[2]}}};
  }
  void start(GuestMemory& memory, uint64_t features, QueueFeatures queue_features) {
    active.emplace(ActiveState{memory, interrupt, features, [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, 16, Gpa{i * kQueueStride}, queue_features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), queue_features, 64);
    }
    device.activate(*active);
  }
  void stop() {
    if (active) device.reset();
    active.reset();
  }

  std::vector<FuzzPort> ports;
  FuzzInterrupt interrupt;
  std::optional<ActiveState> active;
  ConsoleDevice device;
};

// A control message from the driver, well-formed but for its values.
void send_control(GuestMemory& memory, Guest& guest, FuzzInput& input) {
  const Gpa at{kQueues * kQueueStride + 64};
  const console::Control message{input.below(5), static_cast<uint16_t>(input.below(9)),
                                 static_cast<uint16_t>(input.below(3))};
  memory.store(at, message);
  const QueueConfig rings = guest.active->queue(3)->save().config;
  const uint16_t idx = memory.load<uint16_t>(rings.avail + 2).value_or(0);
  memory.store(rings.desc, split_ring::Descriptor{at.raw(), 8, 0, 0});
  memory.store(rings.avail + 4 + uint64_t{idx % 16U} * 2, uint16_t{0});
  memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
  (void)guest.device.on_kick(3);
}

void step(GuestMemory& memory, Guest& guest, FuzzInput& input) {
  FuzzPort& port = guest.ports[input.below(3)];
  switch (input.below(9)) {
    case 0:
      send_control(memory, guest, input);
      break;
    case 1:
    case 2: {
      const auto queue = static_cast<uint16_t>(input.below(kQueues));
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    }
    case 3:
    case 4: {
      const Gpa at{input.below(kQueues * 4096)};
      memory.write(at, std::as_bytes(input.take_bytes(input.below(64))));
      break;
    }
    case 5: {
      const auto bytes = std::as_bytes(input.take_bytes(input.below(64)));
      CHECK(port.guest->send(bytes) <= bytes.size());
      break;
    }
    case 6:
      port.room = input.take<uint8_t>() % 2 == 0 ? FuzzPort::kEndless : input.below(100);
      port.sends_when_ready = input.below(2) != 0;
      port.guest->output_ready();
      break;
    case 7:
      port.guest->set_host_open(input.below(2) != 0);
      port.guest->resize(input.take<uint8_t>(), input.take<uint8_t>());
      break;
    default:
      (void)guest.device.save();
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
  Guest guest;
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
    const auto flags = input.take<uint8_t>();
    guest.start(*memory, flags & 3U, {.event_idx = (flags & 4) != 0, .indirect = (flags & 8) != 0});
    for (int i = 0; i < 100 && !input.is_empty(); ++i) step(*memory, guest, input);
    guest.stop();
  }
  return 0;
}
