#include "virtio/console/port_channel.h"

#include <algorithm>

#include "base/units.h"
#include "virtio/console/protocol.h"
#include "virtio/queue/iov.h"

namespace trapeze {
namespace {

// A turn of one port: enough to make the cost of a turn vanish, little enough that other ports and
// timers of the loop get theirs in time. Chains count too, as they may be empty.
constexpr uint64_t kMaxBytesPerTurn = 1 * MiB;
constexpr uint32_t kMaxChainsPerTurn = 256;

}  // namespace

PortChannel::PortChannel(size_t index, ConsolePort& port, Listener& listener)
    : index_(index), port_(port), listener_(listener) {
  port_.attach(this);
}

PortChannel::~PortChannel() { port_.attach(nullptr); }

void PortChannel::activate(ActiveState& active) {
  active_ = &active;
  // Buffers that the guest adds are of interest only to a back end that waits for them.
  VirtQueue* receive = active.queue(console::receive_queue(index_));
  if (receive != nullptr && !is_starved_) receive->suppress_kicks();
}

void PortChannel::reset() {
  active_ = nullptr;
  has_output_ = is_blocked_ = false;
  output_position_ = 0;
  // is_starved_ stays: the back end still waits, for the next driver.
  set_guest_open(false);
}

void PortChannel::set_guest_open(bool open) {
  if (is_guest_open_ == open) return;
  is_guest_open_ = open;
  port_.on_guest_open(open);
  if (open && is_guest_open_) on_receive_kick();
}

size_t PortChannel::send(std::span<const std::byte> bytes) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(console::receive_queue(index_)) : nullptr;
  if (bytes.empty()) return 0;
  if (queue == nullptr || !is_guest_open_) {
    // Linux drops what arrives on a port that nobody has opened: keep it here.
    is_starved_ = true;
    return 0;
  }
  size_t done = 0;
  while (done < bytes.size()) {
    if (!queue->pop(input_)) {
      if (queue->allow_kicks()) continue;
      is_starved_ = true;
      metrics_.host_to_guest_stalls.add();
      break;
    }
    ChainWriter writer(input_);
    const size_t written = writer.write(bytes.subspan(done));
    if (written == 0) {
      // Would let a guest keep this thread busy with buffers that take nothing.
      queue->mark_broken(QueueFault::WrongDirection);
      break;
    }
    done += written;
    queue->push_used(input_, written);
  }
  metrics_.host_to_guest_bytes.add(done);
  active_->notify_used(console::receive_queue(index_));
  return done;
}

void PortChannel::on_receive_kick() {
  if (!is_starved_) return;
  is_starved_ = false;
  VirtQueue* queue = active_ != nullptr ? active_->queue(console::receive_queue(index_)) : nullptr;
  if (queue != nullptr) queue->suppress_kicks();
  port_.on_guest_ready();
}

void PortChannel::output_ready() {
  if (!is_blocked_) return;
  is_blocked_ = false;
  if (pump_output()) active_->kick_again(console::transmit_queue(index_));
}

// True when output_ holds a chain.
bool PortChannel::take_output() {
  if (has_output_) return true;
  VirtQueue* queue = active_->queue(console::transmit_queue(index_));
  while (!queue->pop(output_)) {
    if (!queue->allow_kicks()) return false;
  }
  has_output_ = true;
  return true;
}

// Offers the chain's remaining bytes to the host's end. True when the chain is done.
bool PortChannel::deliver_output(uint64_t& budget_bytes) {
  ChainReader reader(output_);
  reader.skip(output_position_);
  while (reader.remaining() > 0 && budget_bytes > 0) {
    const auto part = reader.contiguous();
    const auto piece = part.first(std::min<uint64_t>(part.size(), budget_bytes));
    const size_t taken = std::min(port_.receive(piece), piece.size());
    reader.skip(taken);
    output_position_ += taken;
    budget_bytes -= taken;
    metrics_.guest_to_host_bytes.add(taken);
    if (taken == piece.size()) continue;
    is_blocked_ = true;
    metrics_.guest_to_host_stalls.add();
    return false;
  }
  return reader.remaining() == 0;
}

// HOT: no allocation, one virtual call for each contiguous piece.
bool PortChannel::pump_output() {
  VirtQueue* queue = active_ != nullptr ? active_->queue(console::transmit_queue(index_)) : nullptr;
  if (queue == nullptr || is_blocked_) return false;
  queue->suppress_kicks();
  uint64_t budget_bytes = kMaxBytesPerTurn;
  uint32_t chains = 0;
  bool is_turn_over = false;
  while (take_output()) {
    if (!deliver_output(budget_bytes)) {
      is_turn_over = !is_blocked_;
      break;
    }
    queue->push_used(output_, 0);
    has_output_ = false;
    output_position_ = 0;
    if (++chains == kMaxChainsPerTurn || budget_bytes == 0) {
      is_turn_over = true;
      break;
    }
  }
  active_->notify_used(console::transmit_queue(index_));
  return is_turn_over;
}

void PortChannel::set_host_open(bool open) {
  if (is_host_open_ == open) return;
  is_host_open_ = open;
  listener_.host_open_changed(index_);
}

void PortChannel::resize(uint16_t columns, uint16_t rows) {
  listener_.resized(index_, columns, rows);
}

ConsolePortState PortChannel::save() {
  if (has_output_) {
    active_->queue(console::transmit_queue(index_))->undo_pop();
    has_output_ = false;
  }
  return {.guest_ready = false,
          .guest_open = is_guest_open_,
          .host_open = is_host_open_,
          .pending_control = 0,
          .output_skip_bytes = output_position_};
}

void PortChannel::restore(const ConsolePortState& state) {
  output_position_ = state.output_skip_bytes;
  is_host_open_ = state.host_open;
  set_guest_open(state.guest_open);
}

}  // namespace trapeze
