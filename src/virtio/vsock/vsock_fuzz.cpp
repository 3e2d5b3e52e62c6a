// A driver that writes anything into the rings and packets of a virtio-vsock, and host programs
// that connect, talk and go as they like. Nothing may crash, hang, or grow.
#include "virtio/queue/fuzz_guest.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/fake_host.h"

namespace trapeze {
namespace {

constexpr uint16_t kQueues = 3;
constexpr Gpa kPackets = FuzzRings::kData;
constexpr uint64_t kCid = 3;
constexpr size_t kMaxPeers = 64;

struct Guest {
  explicit Guest(FuzzInput& input) : flags(input.take<uint8_t>()) {}
  void start() {
    if ((flags & 4) != 0) device.restore(device.save());
    rings.start(device, 0, {.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0});
  }
  void step(FuzzInput& input);
  void send_packet(FuzzInput& input);
  FakePeer* choose_peer(FuzzInput& input);

  const uint8_t flags;
  FuzzRings rings{kQueues};
  FakeHost host;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  VsockDevice device{kCid, host, *loop};
};

// A packet with values around those that count; ports are few, so that connections are met again.
void Guest::send_packet(FuzzInput& input) {
  vsock::Header header;
  header.src_cid = input.below(16) == 0 ? input.below(5) : kCid;
  header.dst_cid = input.below(16) == 0 ? input.below(5) : vsock::kHostCid;
  header.src_port = input.below(4);
  header.dst_port = input.below(3) == 0 ? (1U << 30) + input.below(4) : 1000;
  header.op = static_cast<uint16_t>(input.below(9));
  header.flags = input.below(4);
  header.len = input.below(16) == 0 ? input.take<uint32_t>() : input.below(3000);
  header.buf_alloc = input.below(4) == 0 ? input.take<uint32_t>() : 65536;
  header.fwd_cnt = input.below(4) == 0 ? input.take<uint32_t>() : input.below(5000);
  const uint32_t slot = input.below(FuzzRings::kRingSize);
  const Gpa at = kPackets + uint64_t{slot} * 3072;
  rings.memory().store(at, header);
  const uint32_t bytes = input.below(8) == 0 ? input.below(5000) : 44 + (header.len & 0xfff);
  rings.set_descriptor(vsock::kTransmitQueue, slot, at, bytes, 0);
  rings.offer(vsock::kTransmitQueue, slot);
}

FakePeer* Guest::choose_peer(FuzzInput& input) {
  if (host.peers.empty()) return nullptr;
  const uint32_t chosen = input.below(static_cast<uint32_t>(host.peers.size()));
  return &*std::next(host.peers.begin(), static_cast<ptrdiff_t>(chosen));
}

void use_peer(FakePeer& peer, FuzzInput& input) {
  switch (input.below(5)) {
    case 0:
      peer.to_guest.append(input.below(500), 'x');
      break;
    case 1:
      peer.room = input.below(2) == 0 ? ~size_t{0} : input.below(1000);
      break;
    case 2:
      peer.has_ended = true;
      break;
    case 3:
      peer.is_broken = input.below(4) == 0;
      break;
    default:
      break;
  }
  peer.poll();
}

void Guest::step(FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(8)) {
    case 0:
    case 1:
      if (host.peers.size() < kMaxPeers) send_packet(input);
      [[fallthrough]];
    case 2:
      FuzzRings::kick(device, queue);
      break;
    case 3: {
      const uint32_t slot = input.below(FuzzRings::kRingSize);
      rings.set_descriptor(vsock::kReceiveQueue, slot, kPackets + 48 * KiB, input.below(6000), 2);
      rings.offer(vsock::kReceiveQueue, slot);
      break;
    }
    case 4:
      rings.scribble(input);
      break;
    case 5:
      if (FakePeer* peer = choose_peer(input)) use_peer(*peer, input);
      break;
    case 6:
      (void)device.save();
      if (input.below(8) == 0) device.finish([] {});
      break;
    default:
      if (host.peers.size() < kMaxPeers && host.guest != nullptr) {
        host.guest->host_connects(input.below(4), host.make_stream());
      }
      break;
  }
  CHECK(device.connections() <= VsockDevice::kMaxConnections);  // scribbled packets may open any
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return trapeze::fuzz_device<trapeze::Guest>(data, size);
}
