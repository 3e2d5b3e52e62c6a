#include "virtio/vsock/device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/units.h"
#include "virtio/queue/iov.h"

namespace trapeze {

using vsock::Op;

namespace {

// §5.10.6: Linux sends up to 64 KiB in one packet.
constexpr uint32_t kMaxPacketBytes = 64 * KiB;

// The bytes after a packet's header, at most so many.
void add_parts_of(std::span<const iovec> chain, uint64_t bytes, std::vector<iovec>& to) {
  uint64_t skip = sizeof(vsock::Header);
  for (const iovec& part : chain) {
    const uint64_t skipped = std::min<uint64_t>(skip, part.iov_len);
    skip -= skipped;
    const uint64_t step = std::min<uint64_t>(part.iov_len - skipped, bytes);
    if (step != 0) to.push_back({static_cast<std::byte*>(part.iov_base) + skipped, step});
    bytes -= step;
  }
}

}  // namespace

VsockDevice::VsockDevice(uint64_t guest_cid, VsockHost& host, EventLoop& loop,
                         bool waits_in_streams)
    : guest_cid_(guest_cid), host_(host), loop_(loop), waits_in_streams_(waits_in_streams) {
  host_.attach(this);
}

VsockDevice::~VsockDevice() {
  stop_waiting();
  host_.attach(nullptr);
}

void VsockDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&guest_cid_) + offset, to.size());
}

void VsockDevice::activate(ActiveState& state) {
  active_ = &state;
  transport_reset_.tell(state);
}

void VsockDevice::reset() {
  stop_waiting();
  active_ = nullptr;
  leave_all();
  loose_resets_.clear();
}

void VsockDevice::finish(std::function<void()> on_done) {
  if (active_ != nullptr && active_->queue(vsock::kTransmitQueue) != nullptr) {
    // As many turns as there can be packets: a ring that something writes to yet is no hold-up.
    constexpr int kTurns = kQueueSizes[vsock::kTransmitQueue] / kMaxPacketsPerTurn + 1;
    for (int turn = 0; turn < kTurns && serve_transmit(); ++turn) {
    }
  }
  leave_all();
  last_bytes_.when_done(std::move(on_done));
}

void VsockDevice::leave_all() {
  ready_.clear();
  for (auto& [key, connection] : connections_) connection->leave_rest(last_bytes_);
  connections_.clear();
}

void VsockDevice::restore(const VsockState& state) {
  guest_cid_ = state.guest_cid;
  transport_reset_.order();  // connections of before are gone
}

bool VsockDevice::on_kick(uint16_t queue) {
  if (active_ == nullptr || active_->queue(queue) == nullptr) return false;
  if (queue == vsock::kTransmitQueue) {
    receives_soon_ = true;
    const bool has_more = serve_transmit();
    receives_soon_ = false;
    if (serve_receive()) active_->kick_again(vsock::kReceiveQueue);
    return has_more;
  }
  if (queue == vsock::kReceiveQueue) return serve_receive();
  transport_reset_.tell(*active_);
  return false;
}

// Guest to host -----------------------------------------------------------------------------------

bool VsockDevice::serve_transmit() {
  VirtQueue* queue = active_->queue(vsock::kTransmitQueue);
  const bool is_first = untold_ == 0;
  const bool has_more = serve(*queue, chain_, kMaxPacketsPerTurn, [&](Chain& chain) {
    handle_chain(chain);
    queue->push_used(chain, 0);
    ++untold_;
    return true;
  });
  tell_taken_or_wait(is_first, has_more);
  return has_more;
}

void VsockDevice::tell_taken_or_wait(bool is_first, bool has_more) {
  const bool is_trusted = answers_ == kAnswersToTrust;
  if (!is_trusted && untold_ != 0) {
    if (awaits_answer_) answers_ = 0;
    awaits_answer_ = true;
  }
  if (!is_trusted || has_more || untold_ == 0 || untold_ >= kMaxUntold) return tell_taken();
  if (is_first) is_timer_for_it_ = !wait_timer_;
  if (wait_timer_) return;  // for later packets it comes early, that is all
  wait_timer_ = loop_.start_timer(kMaxWait, [this] {
    wait_timer_.reset();
    if (untold_ == 0) return;
    if (is_timer_for_it_) answers_ = 0;
    tell_taken();
  });
}

void VsockDevice::tell_answer() {
  if (awaits_answer_ && answers_ < kAnswersToTrust) ++answers_;
  awaits_answer_ = false;
  untold_ = 0;
  active_->notify_both_used(vsock::kReceiveQueue, vsock::kTransmitQueue);
}

void VsockDevice::tell_taken() {
  untold_ = 0;
  active_->notify_used(vsock::kTransmitQueue);
}

void VsockDevice::stop_waiting() {
  if (wait_timer_) loop_.cancel_timer(*wait_timer_);
  wait_timer_.reset();
  untold_ = answers_ = 0;
  awaits_answer_ = false;
}

void VsockDevice::handle_chain(Chain& chain) {
  ChainReader reader(chain);
  const auto header = reader.read_value<vsock::Header>();
  if (!header || header->len > kMaxPacketBytes || header->len > reader.remaining()) {
    metrics_.bad_packets.add();
    return;
  }
  // Whatever the guest makes of the bytes meanwhile, they go to a socket, and nobody looks at them.
  parts_.clear();
  add_parts_of(chain.readable(), header->len, parts_);
  handle_packet(*header, parts_);
}

void VsockDevice::handle_packet(const vsock::Header& header, std::span<const iovec> data) {
  if (header.src_cid != guest_cid_) return metrics_.bad_packets.add();
  const bool is_known = header.dst_cid == vsock::kHostCid && header.type == vsock::kTypeStream;
  if (!is_known) return refuse(header);
  const auto found = connections_.find({header.dst_port, header.src_port});
  if (found == connections_.end()) {
    if (static_cast<Op>(header.op) == Op::Request) return open(header);
    return refuse(header);
  }
  if (!found->second->handle(header, data)) {
    metrics_.bad_packets.add();
    remove(found);
    return refuse(header);
  }
  if (!found->second->is_over()) return;
  // A guest resets what has not been taken in the time that it gives a closed connection.
  found->second->leave_rest(last_bytes_);
  remove(found);
}

void VsockDevice::remove(Connections::iterator at) {
  if (at->second->is_in_line) std::erase(ready_, at->second.get());
  connections_.erase(at);
}

void VsockDevice::open(const vsock::Header& header) {
  if (connections() >= kMaxConnections) return refuse(header);
  auto stream = host_.connect(header.dst_port);
  if (stream == nullptr) return refuse(header);
  const VsockKey key{header.dst_port, header.src_port};
  VsockConnection::Owner& owner = *this;
  const auto [at, is_new] = connections_.emplace(
      key, std::make_unique<VsockConnection>(key, VsockConnection::State::Open, std::move(stream),
                                             owner, metrics_));
  vsock::Header credit = header;
  credit.op = static_cast<uint16_t>(Op::CreditUpdate);
  at->second->handle(credit, {});
  metrics_.connections.add();
}

void VsockDevice::refuse(const vsock::Header& header) {
  if (static_cast<Op>(header.op) == Op::Reset) return;  // or both sides would go on for ever
  if (loose_resets_.size() < kMaxLooseResets) {
    loose_resets_.push_back({header.dst_port, header.src_port});
  }
}

// Host to guest -----------------------------------------------------------------------------------

void VsockDevice::host_connects(uint32_t guest_port, std::unique_ptr<VsockStream> stream) {
  if (active_ == nullptr || connections() >= kMaxConnections) return;
  VsockKey key{next_host_port_, guest_port};
  while (connections_.contains(key)) ++key.host_port;
  next_host_port_ = key.host_port == 0xffff'fffe ? 1U << 30 : key.host_port + 1;
  VsockConnection::Owner& owner = *this;
  connections_.emplace(key,
                       std::make_unique<VsockConnection>(key, VsockConnection::State::Requested,
                                                         std::move(stream), owner, metrics_));
  metrics_.connections.add();
}

void VsockDevice::put_in_line(VsockConnection& connection) {
  if (std::exchange(connection.is_in_line, true)) return;
  ready_.push_back(&connection);
}

void VsockDevice::connection_has_packet(VsockConnection& connection) {
  put_in_line(connection);
  // Calls come from the middle of things: serve the queue from the loop.
  if (active_ == nullptr || receives_soon_ || ready_.size() != 1) return;
  active_->kick_again(vsock::kReceiveQueue);
}

// HOT: straight from the stream into a buffer of the guest, if it has one.
void VsockDevice::connection_is_ready(VsockConnection& connection) {
  const VsockKey key = connection.key();  // it may be gone behind this
  put_in_line(connection);
  if (active_ != nullptr && serve_receive()) active_->kick_again(vsock::kReceiveQueue);
  const auto found = connections_.find(key);
  if (found != connections_.end()) found->second->pause_or_go_on();
}

bool VsockDevice::serve_receive() {
  VirtQueue* queue = active_->queue(vsock::kReceiveQueue);
  if (queue == nullptr) return false;
  queue->suppress_kicks();
  const uint64_t before = metrics_.host_to_guest_bytes.get();
  uint16_t served = 0;
  while (has_packet() && served < kMaxPacketsPerTurn) {
    const uint16_t taken = take_buffers(*queue);
    if (taken == 0) {
      if (queue->allow_kicks()) continue;
      break;
    }
    const uint16_t used = fill(taken, *queue);
    for (uint16_t left = used; left < taken; ++left) queue->undo_pop();
    if (used == 0) break;
    served = static_cast<uint16_t>(served + used);
  }
  if (served != 0) tell_answer();
  // Not for what the guest sends: measured, that loses.
  if (waits_in_streams_) bulk_.note_turn(metrics_.host_to_guest_bytes.get() - before);
  return served >= kMaxPacketsPerTurn && has_packet();
}

// As many as the next packet can probably use.
uint16_t VsockDevice::take_buffers(VirtQueue& queue) {
  const bool is_data_next = loose_resets_.empty() && !ready_.empty();
  const uint16_t wanted = is_data_next ? ready_.front()->burst() : uint16_t{1};
  uint16_t taken = 0;
  while (taken < wanted && queue.pop(buffers_[taken])) ++taken;
  return taken;
}

// Into how many of the buffers; 0: there was no packet after all, and all are untouched.
uint16_t VsockDevice::fill(uint16_t count, VirtQueue& queue) {
  // The data goes where it belongs before its headers are known.
  parts_.clear();
  for (uint16_t i = 0; i < count; ++i) {
    if (buffers_[i].writable_bytes() < sizeof(vsock::Header)) {
      queue.mark_broken(QueueFault::WrongDirection);
      return count;
    }
    add_parts_of(buffers_[i].writable(), kMaxPacketBytes, parts_);
  }
  vsock::Header packet;
  if (!next_packet(packet, parts_)) return 0;
  packet.src_cid = vsock::kHostCid;
  packet.dst_cid = guest_cid_;
  uint16_t used = 0;
  uint64_t left = packet.len;
  do {
    Chain& chain = buffers_[used++];
    vsock::Header header = packet;
    const uint64_t room = chain.writable_bytes() - sizeof(header);
    header.len = static_cast<uint32_t>(std::min<uint64_t>({left, room, kMaxPacketBytes}));
    left -= header.len;
    ChainWriter(chain).write_value(header);
    chain.note_written(sizeof(header) + header.len);
    queue.push_used(chain, sizeof(header) + header.len);
  } while (left != 0 && used < count);
  return used;
}

bool VsockDevice::next_packet(vsock::Header& header, std::span<const iovec> room) {
  if (!loose_resets_.empty()) {
    header.src_port = loose_resets_.front().host_port;
    header.dst_port = loose_resets_.front().guest_port;
    header.op = static_cast<uint16_t>(Op::Reset);
    loose_resets_.pop_front();
    metrics_.resets.add();
    return true;
  }
  while (!ready_.empty()) {
    VsockConnection& connection = *ready_.front();
    const bool has_packet = connection.next_packet(header, room);
    if (connection.is_over()) {
      metrics_.resets.add();
      remove(connections_.find(connection.key()));
    } else {
      ready_.pop_front();
      connection.is_in_line = false;
      if (connection.has_packet()) put_in_line(connection);
    }
    if (has_packet) return true;
  }
  return false;
}

}  // namespace trapeze
