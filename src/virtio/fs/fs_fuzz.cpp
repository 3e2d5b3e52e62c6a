// A driver that writes anything into the rings of a virtio-fs. Nothing may crash or hang, and the
// server is given guest memory only (FakeFsServer reads and writes all of it).
#include <memory>

#include "base/log.h"
#include "virtio/fs/device.h"
#include "virtio/fs/fake_server.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr uint16_t kQueues = 2;
constexpr uint16_t kRingSize = 16;
constexpr Gpa kBuffers{64 * KiB};

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  Guest(GuestMemory& guest_memory, FuzzInput& input)
      : memory(guest_memory), flags(input.take<uint8_t>()) {}
  void start() {
    const QueueFeatures features{.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0};
    active.emplace(ActiveState{memory, interrupt, 0, [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), features, 1024);
    }
    device.activate(*active);
  }

  GuestMemory& memory;
  const uint8_t flags;
  FuzzInterrupt interrupt;
  std::optional<ActiveState> active;
  FakeFsServer server;
  FsDevice device{{.tag = "fuzz"}, server};
};

// Two descriptors, as the driver has them, or a little off.
void send_request(Guest& guest, FuzzInput& input, uint16_t queue) {
  const QueueConfig rings = guest.active->queue(queue)->save().config;
  if (rings.size == 0) return;
  const auto slot = static_cast<uint16_t>(input.below(7) * 2);
  const auto put = [&](unsigned index, uint32_t len, uint32_t descriptor_flags) {
    guest.memory.store(rings.desc + (slot + index) * 16,
                       split_ring::Descriptor{(kBuffers + input.below(64 * 1024)).raw(), len,
                                              static_cast<uint16_t>(descriptor_flags),
                                              static_cast<uint16_t>(slot + index + 1)});
  };
  put(0, input.below(8) == 0 ? input.below(70'000) : 40 + input.below(100), 1 + input.below(8) / 7);
  put(1, input.below(4) == 0 ? input.below(20) : 16 + input.below(5000), 2);
  const uint16_t idx = guest.memory.load<uint16_t>(rings.avail + 2).value_or(0);
  guest.memory.store(rings.avail + 4 + (idx % kRingSize) * uint64_t{2}, slot);
  guest.memory.store(rings.avail + 2, static_cast<uint16_t>(idx + 1));
}

void step(Guest& guest, FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(6)) {
    case 0:
    case 1:
      send_request(guest, input, queue);
      [[fallthrough]];
    case 2:
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    case 3:
      guest.memory.write(Gpa{input.below(kQueues * kQueueStride)},
                         std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 4:
      guest.server.wants_reply = input.below(2) != 0;
      guest.server.reply.assign(fs::kReplyHeaderBytes + input.below(3000), 'f');
      break;
    default: {
      const uint32_t offset = input.below(fs::kConfigBytes);
      std::array<std::byte, 8> bytes{};
      guest.device.read_config(
          offset, std::span(bytes).first(std::min<size_t>(8, fs::kConfigBytes - offset)));
      break;
    }
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
  FuzzInput input(data, size);
  Guest guest(*memory, input);
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    memory->fill(Gpa{0}, std::byte{0}, kRamBytes);
    guest.start();
    for (int i = 0; i < 100 && !input.is_empty(); ++i) step(guest, input);
    guest.device.reset();
  }
  return 0;
}
