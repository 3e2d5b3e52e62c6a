#include "virtio/net/device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace trapeze {
namespace {

constexpr uint16_t kQueueSize = 256;
constexpr uint16_t kControlQueueSize = 64;
constexpr uint16_t kUsualMtu = 1500;
constexpr uint32_t kVlanTagBytes = 4;

uint64_t features_of(const NetInfo& info) {
  uint64_t features = net::kFeatureMac | net::kFeatureStatus | net::kFeatureMergeableBuffers |
                      net::kFeatureCtrlVq | net::kFeatureGuestAnnounce | net::kFeatureCtrlMacAddr |
                      (info.offloads & (net::kHostOffloads | net::kGuestOffloads));
  if ((info.offloads & net::kGuestOffloads) != 0) features |= net::kFeatureCtrlGuestOffloads;
  if (info.mtu) features |= net::kFeatureMtu;
  if (info.pairs > 1) features |= net::kFeatureMultiQueue;
  return features;
}

std::vector<uint16_t> queue_sizes_of(uint16_t pairs) {
  std::vector<uint16_t> sizes(size_t{pairs} * 2, kQueueSize);
  sizes.push_back(kControlQueueSize);
  return sizes;
}

constexpr uint64_t kSegmentation = net::kFeatureGuestTso4 | net::kFeatureGuestTso6;

// §5.1.6.3.1
uint32_t longest_frame(const NetInfo& info, uint64_t features) {
  if ((features & kSegmentation) != 0) return net::kMaxFrameBytes;
  const uint32_t mtu = std::max(info.mtu.value_or(kUsualMtu), kUsualMtu);
  return net::kHeaderBytes + net::kEthernetHeaderBytes + kVlanTagBytes + mtu;
}

}  // namespace

NetDevice::NetDevice(const NetDeviceConfig& config, NetBackend& backend, EventLoop& loop,
                     const Clock& clock)
    : own_mac_(config.mac),
      backend_(backend),
      loop_(loop),
      pair_count_(backend.info().pairs),
      queue_sizes_(queue_sizes_of(pair_count_)),
      features_(features_of(backend.info())),
      send_limiter_(config.send_limits, clock.monotonic_ns()),
      receive_limiter_(config.receive_limits, clock.monotonic_ns()),
      rings_(backend.info().name, loop),
      waits_in_streams_(config.waits_in_streams) {
  CHECK(pair_count_ >= 1 && pair_count_ <= NetDeviceConfig::kMaxPairs);
  for (uint16_t i = 0; i < pair_count_; ++i) {
    pairs_.push_back(
        std::make_unique<Pair>(NetPath{i, backend, send_limiter_, clock, metrics_},
                               NetPath{i, backend, receive_limiter_, clock, metrics_}));
  }
  set_mac(own_mac_);
  backend_.attach(this);
}

NetDevice::~NetDevice() {
  reset();
  backend_.attach(nullptr);
}

void NetDevice::set_mac(const net::MacAddress& mac) {
  uint64_t packed = 0;
  std::memcpy(&packed, mac.data(), mac.size());
  mac_.store(packed, std::memory_order_relaxed);
}

net::MacAddress NetDevice::mac() const {
  const uint64_t packed = mac_.load(std::memory_order_relaxed);
  net::MacAddress mac;
  std::memcpy(mac.data(), &packed, mac.size());
  return mac;
}

void NetDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  const net::Config config{.mac = mac(),
                           .status = status_.load(std::memory_order_relaxed),
                           .max_virtqueue_pairs = pair_count_,
                           .mtu = backend_.info().mtu.value_or(0)};
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config) + offset, to.size());
}

// §5.1.2: without VIRTIO_NET_F_MQ there is one pair, whatever the device could do.
uint16_t NetDevice::control_queue() const {
  return active_->has_feature(net::kFeatureMultiQueue) ? static_cast<uint16_t>(pair_count_ * 2) : 2;
}

void NetDevice::activate(ActiveState& state) {
  active_ = &state;
  for (const auto& pair : pairs_) {
    pair->receiver.start(state.has_feature(net::kFeatureMergeableBuffers),
                         longest_frame(backend_.info(), state.features));
  }
  uint64_t offloads = state.features & net::kGuestOffloads;
  uint16_t pairs = 1;
  if (restored_) {
    offloads &= restored_->guest_offloads;
    pairs = std::clamp<uint16_t>(restored_->pairs_in_use, 1, pair_count_);
    // §5.1.6.5.4: switches between here and there have to learn where the guest is now.
    if (state.has_feature(net::kFeatureGuestAnnounce) && state.has_feature(net::kFeatureCtrlVq)) {
      set_status(
          static_cast<uint16_t>(status_.load(std::memory_order_relaxed) | net::kStatusAnnounce));
      state.interrupt.config_changed();
    }
    restored_.reset();
  }
  use_offloads(offloads);
  start_rings();
  use_pairs(pairs);
}

void NetDevice::start_rings() {
  RingService* service = backend_.rings();
  if (service == nullptr || !has_link_) return;
  std::vector<uint16_t> queues;
  for (uint16_t number = 0; number < pair_count_ * 2; ++number) {
    if (number != control_queue()) queues.push_back(number);
  }
  rings_.start(*service, *active_, queues, net::kFeatureMergeableBuffers);
}

void NetDevice::reset() {
  rings_.stop();
  for (auto& timer : throttle_timers_) {
    if (timer) loop_.cancel_timer(*timer);
    timer.reset();
  }
  for (uint16_t i = 0; i < pair_count_; ++i) {
    want(i, false, false);
    pairs_[i]->receiver.forget();
    pairs_[i]->sender.forget();
    pairs_[i]->is_receive_throttled = pairs_[i]->is_send_throttled = false;
  }
  active_ = nullptr;
  pairs_in_use_ = 1;
  use_offloads(0);
  set_mac(own_mac_);
  set_status(has_link_ ? net::kStatusLinkUp : 0);
}

NetState NetDevice::save() {
  rings_.stop();
  for (uint16_t i = 0; active_ != nullptr && i < pair_count_; ++i) {
    VirtQueue* queue = active_->queue(net::receive_queue(i));
    if (queue != nullptr) pairs_[i]->receiver.give_back(*queue);
  }
  return {.mac = mac(),
          .pairs_in_use = pairs_in_use_,
          .guest_offloads = guest_offloads_,
          .send_bandwidth = send_limiter_.bandwidth().save(),
          .send_operations = send_limiter_.operations().save(),
          .receive_bandwidth = receive_limiter_.bandwidth().save(),
          .receive_operations = receive_limiter_.operations().save()};
}

void NetDevice::resume() {
  if (active_ != nullptr && !rings_.are_served()) start_rings();
}

void NetDevice::restore(const NetState& state) {
  set_mac(state.mac);
  restored_ = state;
  send_limiter_.bandwidth().restore(state.send_bandwidth);
  send_limiter_.operations().restore(state.send_operations);
  receive_limiter_.bandwidth().restore(state.receive_bandwidth);
  receive_limiter_.operations().restore(state.receive_operations);
}

// Queues ------------------------------------------------------------------------------------------

bool NetDevice::on_kick(uint16_t index) {
  if (active_ == nullptr || active_->queue(index) == nullptr) return false;
  if (index == control_queue()) return serve_control(index);
  if (rings_.are_served()) return false;  // a kick of ours, for the other one
  const auto pair = static_cast<uint16_t>(index / 2);
  if (!is_in_use(pair)) return false;
  if (index == net::transmit_queue(pair)) return serve_send(pair);
  serve_receive(pair);
  return false;
}

// HOT
bool NetDevice::serve_send(uint16_t index) {
  Pair& pair = *pairs_[index];
  const uint16_t number = net::transmit_queue(index);
  VirtQueue* queue = active_->queue(number);
  if (queue == nullptr || pair.wants_send || pair.is_send_throttled) return false;
  const uint64_t before = metrics_.sent_bytes.get();
  NetTurn turn = has_link_ ? pair.sender.serve(*queue) : pair.sender.drop_all(*queue);
  if (waits_in_streams_) bulk_.note_turn(metrics_.sent_bytes.get() - before);
  if (turn.end == NetTurn::End::Lost) {
    lose_link();
    turn = pair.sender.drop_all(*queue);
  }
  active_->notify_used(number);
  if (turn.end == NetTurn::End::Blocked) want(index, pair.wants_receive, true);
  if (turn.end == NetTurn::End::Throttled) throttle(Direction::Send, index, turn.wait_ns);
  return turn.end == NetTurn::End::More;
}

// HOT
void NetDevice::serve_receive(uint16_t index) {
  Pair& pair = *pairs_[index];
  const uint16_t number = net::receive_queue(index);
  VirtQueue* queue = active_->queue(number);
  if (queue == nullptr || !has_link_ || pair.is_receive_throttled) return;
  const uint64_t before = metrics_.received_bytes.get();
  const NetTurn turn = pair.receiver.serve(*queue);
  active_->notify_used(number);
  if (waits_in_streams_) bulk_.note_turn(metrics_.received_bytes.get() - before);
  // After a full turn the back end says again that it is ready, when others had their turn.
  const bool waits_for_backend =
      turn.end == NetTurn::End::Blocked || turn.end == NetTurn::End::More;
  if (turn.end == NetTurn::End::Lost) return lose_link();
  want(index, waits_for_backend, pair.wants_send);
  if (turn.end == NetTurn::End::Throttled) throttle(Direction::Receive, index, turn.wait_ns);
}

void NetDevice::net_ready(uint16_t index, bool can_receive, bool can_send) {
  if (active_ == nullptr || index >= pair_count_ || !is_in_use(index) || rings_.are_served())
    return;
  if (can_send && pairs_[index]->wants_send) {
    want(index, pairs_[index]->wants_receive, false);
    if (serve_send(index)) active_->kick_again(net::transmit_queue(index));
  }
  if (can_receive) serve_receive(index);
}

void NetDevice::want(uint16_t index, bool receiving, bool sending) {
  Pair& pair = *pairs_[index];
  if (pair.wants_receive == receiving && pair.wants_send == sending) return;
  pair.wants_receive = receiving;
  pair.wants_send = sending;
  if (has_link_) backend_.want(index, receiving, sending);
}

// All throttled queues of a direction are looked at again when its timer says so.
void NetDevice::throttle(Direction direction, uint16_t index, uint64_t wait_ns) {
  const bool is_send = direction == Direction::Send;
  (is_send ? pairs_[index]->is_send_throttled : pairs_[index]->is_receive_throttled) = true;
  auto& timer = throttle_timers_[is_send ? 1 : 0];
  if (timer) return;
  timer = loop_.start_timer(std::chrono::nanoseconds(wait_ns), [this, is_send] {
    throttle_timers_[is_send ? 1 : 0].reset();
    for (uint16_t i = 0; i < pair_count_; ++i) {
      bool& is_throttled = is_send ? pairs_[i]->is_send_throttled : pairs_[i]->is_receive_throttled;
      if (!std::exchange(is_throttled, false)) continue;
      active_->kick_again(is_send ? net::transmit_queue(i) : net::receive_queue(i));
    }
  });
}

// The card stays, its cable is gone: the guest sees it in the status, what it sends is dropped.
void NetDevice::lose_link() {
  if (!has_link_) return;
  rings_.stop();
  for (uint16_t i = 0; i < pair_count_; ++i) want(i, false, false);
  has_link_ = false;
  set_status(static_cast<uint16_t>(status_.load(std::memory_order_relaxed) & ~net::kStatusLinkUp));
  if (active_ == nullptr) return;
  active_->interrupt.config_changed();
  for (uint16_t i = 0; i < pairs_in_use_; ++i) active_->kick_again(net::transmit_queue(i));
}

}  // namespace trapeze
