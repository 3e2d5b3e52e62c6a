// PortChannel: the data path of one console port, between two virtqueues and a ConsolePort.
//
// Loop thread only. Guest to host: a transmit buffer is given back to the guest once the host's end
// has taken all of it, so a slow host stops the guest's writer and nothing is stored here. Host to
// guest: bytes go straight into the guest's receive buffers; without buffers the back end waits.
#pragma once

#include <cstdint>

#include "virtio/console/metrics.h"
#include "virtio/console/port.h"
#include "virtio/console/state.h"
#include "virtio/device.h"
#include "virtio/queue/chain.h"

namespace trapeze {

class PortChannel final : public ConsoleGuest {
 public:
  // Told when something changed that the guest must hear of in a control message.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void host_open_changed(size_t port) = 0;
    virtual void resized(size_t port, uint16_t columns, uint16_t rows) = 0;
  };

  PortChannel(size_t index, ConsolePort& port, Listener& listener);
  ~PortChannel() override;
  PortChannel(const PortChannel&) = delete;
  PortChannel& operator=(const PortChannel&) = delete;

  // ConsoleGuest, called by the back end.
  size_t send(std::span<const std::byte> bytes) override;
  void output_ready() override;
  void set_host_open(bool open) override;
  void resize(uint16_t columns, uint16_t rows) override;

  void activate(ActiveState& active);
  void reset();
  void set_guest_open(bool open);
  // The guest has put buffers into the receive queue.
  void on_receive_kick();
  // Moves guest output to the host's end. True when it stopped because a turn is over.
  [[nodiscard]] bool pump_output();

  bool is_host_open() const { return is_host_open_; }
  bool is_guest_open() const { return is_guest_open_; }
  const ConsolePortMetrics& metrics() const { return metrics_; }

  // Puts a half-delivered buffer back, so that the queues can be saved after this.
  ConsolePortState save();
  void restore(const ConsolePortState& state);

 private:
  bool take_output();
  bool deliver_output(uint64_t& budget_bytes);

  const size_t index_;
  ConsolePort& port_;
  Listener& listener_;
  ConsolePortMetrics metrics_;
  ActiveState* active_ = nullptr;
  bool is_host_open_ = true;
  bool is_guest_open_ = false;

  Chain input_;
  bool is_starved_ = false;  // send() could not place all; the back end waits

  Chain output_;
  bool has_output_ = false;       // output_ holds a chain that is not given back yet
  bool is_blocked_ = false;       // the host's end said "not now"
  uint64_t output_position_ = 0;  // bytes of it that the host's end has; survives save()
};

}  // namespace trapeze
