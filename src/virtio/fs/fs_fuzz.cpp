// A driver that writes anything into the rings of a virtio-fs. Nothing may crash or hang, and the
// server is given guest memory only (FakeFsServer reads and writes all of it).
#include "virtio/fs/device.h"
#include "virtio/fs/fake_server.h"
#include "virtio/queue/fuzz_guest.h"

namespace trapeze {
namespace {

constexpr uint16_t kQueues = 2;

struct Guest {
  explicit Guest(FuzzInput& input) : flags(input.take<uint8_t>()) {}
  void start() {
    rings.start(device, 0, {.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0});
  }
  void step(FuzzInput& input);
  void send_request(FuzzInput& input, uint16_t queue);

  const uint8_t flags;
  FuzzRings rings{kQueues};
  FakeFsServer server;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FsDevice device{{.tag = "fuzz"}, server, *loop};
};

// Two descriptors, as the driver has them, or a little off.
void Guest::send_request(FuzzInput& input, uint16_t queue) {
  const uint32_t slot = input.below(7) * 2;
  const auto put = [&](unsigned index, uint32_t len, uint32_t descriptor_flags) {
    rings.set_descriptor(queue, index, FuzzRings::kData + input.below(64 * 1024), len,
                         descriptor_flags);
  };
  put(slot, input.below(8) == 0 ? input.below(70'000) : 40 + input.below(100),
      1 + input.below(8) / 7);
  put(slot + 1, input.below(4) == 0 ? input.below(20) : 16 + input.below(5000), 2);
  rings.offer(queue, slot);
}

void Guest::step(FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(7)) {
    case 0:
    case 1:
      send_request(input, queue);
      [[fallthrough]];
    case 2:
      FuzzRings::kick(device, queue);
      break;
    case 5:
      send_request(input, queue);
      server.all_are_short = input.below(4) != 0;
      server.is_full = input.below(4) == 0;
      FuzzRings::ring(device, queue);
      break;
    case 3:
      rings.scribble(input);
      break;
    case 4:
      server.wants_reply = input.below(2) != 0;
      server.reply.assign(fs::kReplyHeaderBytes + input.below(3000), 'f');
      break;
    default:
      FuzzRings::use_config(device, input);
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return trapeze::fuzz_device<trapeze::Guest>(data, size);
}
