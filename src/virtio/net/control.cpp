// The control queue of NetDevice (virtio 1.2 §5.1.6.5).
#include <array>
#include <cstring>

#include "virtio/net/device.h"
#include "virtio/queue/iov.h"

namespace trapeze {
namespace {

constexpr uint16_t kMaxCommandsPerTurn = 32;
// The longest command that is known has 8 bytes.
constexpr size_t kMaxCommandBytes = 16;

template <typename T>
bool decode(std::span<const std::byte> data, T& value) {
  if (data.size() != sizeof(T)) return false;
  std::memcpy(&value, data.data(), sizeof(T));
  return true;
}

}  // namespace

bool NetDevice::serve_control(uint16_t index) {
  VirtQueue* queue = active_->queue(index);
  const bool has_more = serve(*queue, control_chain_, kMaxCommandsPerTurn, [&](Chain& chain) {
    if (chain.writable_bytes() < 1) {
      // Nowhere to put an answer: the driver would wait for ever.
      queue->mark_broken(QueueFault::WrongDirection);
      return true;
    }
    metrics_.control_commands.add();
    const uint8_t answer = handle_command(chain);
    ChainWriter writer(chain);
    writer.write_value(answer);
    queue->push_used(chain, writer.position());
    return true;
  });
  active_->notify_used(index);
  return has_more;
}

uint8_t NetDevice::handle_command(const Chain& chain) {
  ChainReader reader(chain);
  const auto header = reader.read_value<net::ControlHeader>();
  if (!header || reader.remaining() > kMaxCommandBytes) return net::kAckError;
  std::array<std::byte, kMaxCommandBytes> bytes{};
  const auto data = std::span<const std::byte>(bytes).first(reader.read(bytes));
  const uint8_t command = header->command;
  // No `default`, but the number is the guest's: what is none of these comes out below.
  switch (static_cast<net::ControlClass>(header->command_class)) {
    case net::ControlClass::Mac:
      return command == net::kMacAddrSet ? set_mac_address(data) : net::kAckError;
    case net::ControlClass::Announce:
      if (command != net::kAnnounceAck) return net::kAckError;
      set_status(
          static_cast<uint16_t>(status_.load(std::memory_order_relaxed) & ~net::kStatusAnnounce));
      return net::kAckOk;
    case net::ControlClass::Mq:
      return command == net::kMqPairsSet ? set_pairs(data) : net::kAckError;
    case net::ControlClass::Offloads:
      return command == net::kOffloadsSet ? set_offloads(data) : net::kAckError;
    case net::ControlClass::Rx:
    case net::ControlClass::Vlan:
      return net::kAckError;  // not offered
  }
  return net::kAckError;
}

uint8_t NetDevice::set_mac_address(std::span<const std::byte> data) {
  net::MacAddress wanted;
  if (!decode(data, wanted) || (wanted[0] & 1) != 0) return net::kAckError;
  set_mac(wanted);
  return net::kAckOk;
}

uint8_t NetDevice::set_pairs(std::span<const std::byte> data) {
  uint16_t wanted = 0;
  if (!active_->has_feature(net::kFeatureMultiQueue) || !decode(data, wanted) || wanted < 1 ||
      wanted > pair_count_) {
    return net::kAckError;
  }
  use_pairs(wanted);
  return net::kAckOk;
}

uint8_t NetDevice::set_offloads(std::span<const std::byte> data) {
  uint64_t wanted = 0;
  const uint64_t allowed = active_->features & net::kGuestOffloads;
  if (!active_->has_feature(net::kFeatureCtrlGuestOffloads) || !decode(data, wanted) ||
      (wanted & ~allowed) != 0) {
    return net::kAckError;
  }
  use_offloads(wanted);
  return net::kAckOk;
}

void NetDevice::use_pairs(uint16_t pairs) {
  for (uint16_t i = pairs; i < pairs_in_use_; ++i) want(i, false, false);
  pairs_in_use_ = pairs;
  if (has_link_) backend_.use_pairs(pairs);
  for (uint16_t i = 0; i < pairs; ++i) {
    active_->kick_again(net::receive_queue(i));
    active_->kick_again(net::transmit_queue(i));
  }
}

void NetDevice::use_offloads(uint64_t offloads) {
  // §5.1.3.1: segments need checksums to be left open.
  if ((offloads & net::kFeatureGuestCsum) == 0) offloads = 0;
  guest_offloads_ = offloads;
  if (has_link_) backend_.set_guest_offloads(offloads);
}

}  // namespace trapeze
