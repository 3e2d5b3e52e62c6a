#include "virtio/console/device.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "virtio/queue/iov.h"

namespace trapeze {

using console::Control;
using console::Event;

namespace {

// A Linux guest fills a receive queue with one page for each entry, for each port.
constexpr uint16_t kDataQueueSize = 64;
constexpr uint16_t kControlQueueSize = 32;

// Pending control messages, lowest bit first: the order in which a guest needs them.
enum PortMessage : uint8_t {
  kMessageAdd = 1,
  kMessageConsole = 2,
  kMessageResize = 4,
  kMessageName = 8,
  kMessageOpen = 16,
};
constexpr uint8_t kAllMessages = 31;

constexpr uint32_t pack_size(uint16_t columns, uint16_t rows) {
  return columns | uint32_t{rows} << 16;
}

}  // namespace

ConsoleDevice::ConsoleDevice(const ConsoleConfig& config)
    : resize_layout_(config.resize_layout), size_(pack_size(config.columns, config.rows)) {
  CHECK(!config.ports.empty() && config.ports.size() <= ConsoleConfig::kMaxPorts);
  queue_sizes_.assign(2 * (config.ports.size() + 1), kDataQueueSize);
  queue_sizes_[console::kControlReceiveQueue] = kControlQueueSize;
  queue_sizes_[console::kControlTransmitQueue] = kControlQueueSize;
  for (size_t i = 0; i < config.ports.size(); ++i) {
    CHECK(config.ports[i].port != nullptr);
    ports_.push_back(
        std::make_unique<Port>(i, config.ports[i], static_cast<PortChannel::Listener&>(*this)));
  }
}

ConsoleDevice::~ConsoleDevice() = default;

void ConsoleDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  const uint32_t size = size_.load(std::memory_order_relaxed);
  const console::Config config{.cols = static_cast<uint16_t>(size & 0xffff),
                               .rows = static_cast<uint16_t>(size >> 16),
                               .max_nr_ports = static_cast<uint32_t>(ports_.size()),
                               .emerg_wr = 0};
  std::memcpy(to.data(), reinterpret_cast<const std::byte*>(&config) + offset, to.size());
}

void ConsoleDevice::activate(ActiveState& state) {
  active_ = &state;
  for (auto& port : ports_) port->channel.activate(state);
  if (restored_) {
    const auto saved = std::move(restored_);
    size_.store(pack_size(saved->columns, saved->rows), std::memory_order_relaxed);
    for (size_t i = 0; i < std::min(ports_.size(), saved->ports.size()); ++i) {
      ports_[i]->pending = saved->ports[i].pending_control & kAllMessages;
      ports_[i]->is_ready = saved->ports[i].guest_ready;
      ports_[i]->channel.restore(saved->ports[i]);
    }
    return;
  }
  // Without MULTIPORT nobody announces anything: the one port is open (§5.3.5).
  if (!has_multiport()) ports_[0]->channel.set_guest_open(true);
}

void ConsoleDevice::reset() {
  for (auto& port : ports_) {
    port->pending = 0;
    port->is_ready = false;
    port->channel.reset();
  }
  active_ = nullptr;
}

bool ConsoleDevice::on_kick(uint16_t queue) {
  if (queue >= 2 && !has_multiport()) return false;
  if (queue == console::kControlReceiveQueue) {
    flush_control();
    return false;
  }
  if (queue == console::kControlTransmitQueue) return serve_control();
  const size_t port = queue < 2 ? 0 : queue / 2U - 1;
  PortChannel& channel = ports_[port]->channel;
  if (queue == console::transmit_queue(port)) return channel.pump_output();
  channel.on_receive_kick();
  return false;
}

bool ConsoleDevice::serve_control() {
  VirtQueue* queue = active_->queue(console::kControlTransmitQueue);
  if (queue == nullptr) return false;
  const bool has_more = serve(*queue, control_, queue->size(), [&](Chain& chain) {
    const auto message = ChainReader(chain).read_value<Control>();
    queue->push_used(chain, 0);
    if (message) handle_control(*message);
    return true;
  });
  active_->notify_used(console::kControlTransmitQueue);
  flush_control();
  return has_more;
}

void ConsoleDevice::handle_control(const Control& message) {
  // The only event about the device; its port number means nothing.
  if (message.event == static_cast<uint16_t>(Event::DeviceReady)) {
    if (message.value == 0) return;  // the driver has failed
    for (auto& port : ports_) port->pending |= kMessageAdd;
    return;
  }
  if (message.id >= ports_.size()) return;
  Port& port = *ports_[message.id];
  if (message.event == static_cast<uint16_t>(Event::PortReady)) {
    port.is_ready = message.value != 0;
    if (!port.is_ready) return;
    port.pending |= kMessageName | kMessageOpen;
    if (port.is_console) port.pending |= kMessageConsole;
    if (port.is_console && active_->has_feature(console::kFeatureSize)) {
      port.pending |= kMessageResize;
    }
  } else if (message.event == static_cast<uint16_t>(Event::PortOpen)) {
    port.channel.set_guest_open(message.value != 0);
  }
  // Everything else is the device's to send: ignored.
}

void ConsoleDevice::flush_control() {
  VirtQueue* queue = has_multiport() ? active_->queue(console::kControlReceiveQueue) : nullptr;
  if (queue == nullptr) return;
  for (size_t i = 0; i < ports_.size(); ++i) {
    while (ports_[i]->pending != 0) {
      const auto next = static_cast<uint8_t>(ports_[i]->pending & -ports_[i]->pending);
      if (!send_control(*queue, i, next)) {
        // The kick for the next buffer brings us back here.
        active_->notify_used(console::kControlReceiveQueue);
        return;
      }
      ports_[i]->pending = static_cast<uint8_t>(ports_[i]->pending & ~next);
    }
  }
  active_->notify_used(console::kControlReceiveQueue);
}

// False when the guest has no buffer for it now.
bool ConsoleDevice::send_control(VirtQueue& queue, size_t index, uint8_t message) {
  while (!queue.pop(control_)) {
    if (!queue.allow_kicks()) return false;
  }
  const Port& port = *ports_[index];
  Control header{.id = static_cast<uint32_t>(index), .event = 0, .value = 1};
  std::array<uint16_t, 2> size{};
  std::span<const std::byte> payload;
  switch (static_cast<PortMessage>(message)) {
    case kMessageAdd:
      header.event = static_cast<uint16_t>(Event::PortAdd);
      break;
    case kMessageConsole:
      header.event = static_cast<uint16_t>(Event::ConsolePort);
      break;
    case kMessageResize: {
      header.event = static_cast<uint16_t>(Event::Resize);
      const uint32_t packed = size_.load(std::memory_order_relaxed);
      size = {static_cast<uint16_t>(packed & 0xffff), static_cast<uint16_t>(packed >> 16)};
      if (resize_layout_ == ResizeLayout::RowsFirst) std::swap(size[0], size[1]);
      payload = std::as_bytes(std::span(size));
      break;
    }
    case kMessageName:
      header.event = static_cast<uint16_t>(Event::PortName);
      payload = std::as_bytes(std::span(port.name));
      break;
    case kMessageOpen:
      header.event = static_cast<uint16_t>(Event::PortOpen);
      header.value = port.channel.is_host_open() ? 1 : 0;
      break;
  }
  ChainWriter writer(control_);
  // A buffer that is too small for the header gets nothing; a name may be cut.
  if (writer.write_value(header)) writer.write(payload);
  queue.push_used(control_, writer.position());
  return true;
}

void ConsoleDevice::host_open_changed(size_t port) {
  if (!is_ready(port)) return;
  ports_[port]->pending |= kMessageOpen;
  flush_control();
}

void ConsoleDevice::resized(size_t port, uint16_t columns, uint16_t rows) {
  const uint32_t packed = pack_size(columns, rows);
  // The configuration space and its notification speak of port 0 only (§5.3.4); a further console
  // shares its size.
  if (size_.exchange(packed, std::memory_order_relaxed) == packed || active_ == nullptr) return;
  if (!active_->has_feature(console::kFeatureSize)) return;
  if (!has_multiport()) {
    active_->interrupt.config_changed();
  } else if (is_ready(port) && ports_[port]->is_console) {
    ports_[port]->pending |= kMessageResize;
    flush_control();
  }
}

ConsoleState ConsoleDevice::save() {
  const uint32_t size = size_.load(std::memory_order_relaxed);
  ConsoleState state{.columns = static_cast<uint16_t>(size & 0xffff),
                     .rows = static_cast<uint16_t>(size >> 16),
                     .ports = {}};
  for (auto& port : ports_) {
    state.ports.push_back(port->channel.save());
    state.ports.back().guest_ready = port->is_ready;
    state.ports.back().pending_control = port->pending;
  }
  return state;
}

}  // namespace trapeze
