// A driver that writes anything into the rings and packets of a virtio-vsock, and host programs
// that connect, talk and go as they like. Nothing may crash, hang, or grow.
#include <memory>

#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/fake_host.h"

namespace trapeze {
namespace {

constexpr uint64_t kRamBytes = 128 * KiB;
constexpr uint64_t kQueueStride = 4 * KiB;
constexpr uint16_t kQueues = 3;
constexpr uint16_t kRingSize = 16;
constexpr Gpa kPackets{64 * KiB};
constexpr uint64_t kCid = 3;
constexpr size_t kMaxPeers = 64;

struct FuzzInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { CHECK(queue < kQueues); }
  void config_changed() override {}
  void needs_reset() override {}
};

struct Guest {
  explicit Guest(GuestMemory& guest_memory) : memory(guest_memory) {}
  void start(QueueFeatures features) {
    active.emplace(ActiveState{memory, interrupt, 0, [](uint16_t) {}, {}});
    active->queues.reserve(kQueues);
    for (uint16_t i = 0; i < kQueues; ++i) {
      const TestDriver layout(memory, kRingSize, Gpa{i * kQueueStride}, features);
      active->queues.emplace_back(std::in_place, memory);
      (void)active->queue(i)->configure(layout.config(), features, 256);
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
  FakeHost host;
  VsockDevice device{kCid, host};
};

// A packet with values around those that count; ports are few, so that connections are met again.
void send_packet(Guest& guest, FuzzInput& input) {
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
  const auto slot = static_cast<uint16_t>(input.below(kRingSize));
  const Gpa at = kPackets + uint64_t{slot} * 3072;
  guest.memory.store(at, header);
  const uint32_t bytes = input.below(8) == 0 ? input.below(5000) : 44 + (header.len & 0xfff);
  guest.offer(vsock::kTransmitQueue, slot, {at.raw(), bytes, 0, 0});
}

FakePeer* choose_peer(Guest& guest, FuzzInput& input) {
  if (guest.host.peers.empty()) return nullptr;
  return &*std::next(
      guest.host.peers.begin(),
      static_cast<ptrdiff_t>(input.below(static_cast<uint32_t>(guest.host.peers.size()))));
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

void step(Guest& guest, FuzzInput& input) {
  const auto queue = static_cast<uint16_t>(input.below(kQueues));
  switch (input.below(7)) {
    case 0:
    case 1:
      if (guest.host.peers.size() < kMaxPeers) send_packet(guest, input);
      [[fallthrough]];
    case 2:
      for (int turn = 0; turn < 4 && guest.device.on_kick(queue); ++turn) {
      }
      break;
    case 3:
      guest.offer(vsock::kReceiveQueue, static_cast<uint16_t>(input.below(kRingSize)),
                  {(kPackets + 48 * KiB).raw(), input.below(6000), 2, 0});
      break;
    case 4:
      guest.memory.write(Gpa{input.below(kQueues * kQueueStride)},
                         std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 5:
      if (FakePeer* peer = choose_peer(guest, input)) use_peer(*peer, input);
      break;
    default:
      if (guest.host.peers.size() < kMaxPeers && guest.host.guest != nullptr) {
        guest.host.guest->host_connects(input.below(4), guest.host.make_stream());
      }
      break;
  }
  CHECK(guest.device.connections() <= kMaxPeers);
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
    guest.start({.event_idx = (flags & 1) != 0, .indirect = (flags & 2) != 0});
    for (int i = 0; i < 200 && !input.is_empty(); ++i) step(guest, input);
    if ((flags & 4) != 0) guest.device.restore(guest.device.save());
    guest.device.reset();
  }
  return 0;
}
