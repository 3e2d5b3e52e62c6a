// virtio-console (virtio 1.2 §5.3): up to 31 named byte streams between guest and host.
//
// Threads: as VirtioDevice says; the ports' back ends live on the same EventLoop. Construct and
// destroy it, and call save() and restore(), while the loop does not run or on its thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "virtio/console/port_channel.h"
#include "virtio/console/protocol.h"
#include "virtio/console/state.h"
#include "virtio/device.h"

namespace trapeze {

struct ConsolePortConfig {
  std::string name;             // /dev/virtio-ports/NAME in a Linux guest; cut to 255 bytes
  bool is_console = false;      // the guest makes it a terminal: hvc0, hvc1, ...
  ConsolePort* port = nullptr;  // must outlive the device
};

// What follows a RESIZE message. The specification says columns first; Linux from 2.6.35 to 6.14
// and the kernels derived from those read rows first.
enum class ResizeLayout : uint8_t { RowsFirst, ColumnsFirst };

struct ConsoleConfig {
  static constexpr size_t kMaxPorts = 31;
  // Port 0 is what a driver without MULTIPORT uses as its console.
  std::vector<ConsolePortConfig> ports;
  uint16_t columns = 80;  // of port 0's terminal
  uint16_t rows = 25;
  ResizeLayout resize_layout = ResizeLayout::RowsFirst;
};

class ConsoleDevice final : public VirtioDevice, private PortChannel::Listener {
 public:
  // 1 to kMaxPorts ports.
  explicit ConsoleDevice(const ConsoleConfig& config);
  ~ConsoleDevice() override;

  VirtioType type() const override { return VirtioType::Console; }
  uint64_t offered_features() const override {
    return console::kFeatureSize | console::kFeatureMultiport;
  }
  std::span<const uint16_t> queue_max_sizes() const override { return queue_sizes_; }
  uint32_t config_bytes() const override { return sizeof(console::Config); }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void reset() override;

  const ConsolePortMetrics& metrics(size_t port) const { return ports_[port]->channel.metrics(); }

  // save() before DeviceHost::save_queues(): it puts half-delivered buffers back into them.
  ConsoleState save();
  // Before the transport's restore(), which activates the device. Ports beyond those of this device
  // are ignored.
  void restore(const ConsoleState& state) { restored_ = std::make_unique<ConsoleState>(state); }

 private:
  struct Port {
    Port(size_t index, const ConsolePortConfig& from, PortChannel::Listener& listener)
        : name(from.name.substr(0, 255)),
          is_console(from.is_console),
          channel(index, *from.port, listener) {}
    std::string name;
    bool is_console;
    PortChannel channel;
    bool is_ready = false;  // the driver has set the port up (PORT_READY)
    // Control messages to the guest, one bit each (PortMessage): however often something changes,
    // the guest is told the latest state once, and nothing piles up.
    uint8_t pending = 0;
  };

  void host_open_changed(size_t port) override;
  void resized(size_t port, uint16_t columns, uint16_t rows) override;

  bool has_multiport() const {
    return active_ != nullptr && active_->has_feature(console::kFeatureMultiport);
  }
  // Not yet during construction: back ends may call as soon as they are attached.
  bool is_ready(size_t port) const { return port < ports_.size() && ports_[port]->is_ready; }
  bool serve_control();
  void handle_control(const console::Control& message);
  void flush_control();
  bool send_control(VirtQueue& queue, size_t port, uint8_t message);

  const ResizeLayout resize_layout_;
  std::vector<uint16_t> queue_sizes_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::atomic<uint32_t> size_;  // columns in the low half, rows in the high; read by vCPUs
  ActiveState* active_ = nullptr;
  Chain control_;
  std::unique_ptr<ConsoleState> restored_;  // until activate()
};

}  // namespace trapeze
