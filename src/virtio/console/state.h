// What a snapshot keeps of a virtio-console, besides its queues.
#pragma once

#include <cstdint>
#include <vector>

namespace trapeze {

struct ConsolePortState {
  bool guest_ready = false;  // the driver has answered PORT_READY
  bool guest_open = false;
  bool host_open = true;
  uint8_t pending_control = 0;     // messages the guest has not been given yet, PortMessage bits
  uint64_t output_skip_bytes = 0;  // of the next transmit buffer: delivered to the host already
  bool operator==(const ConsolePortState&) const = default;
};

struct ConsoleState {
  uint16_t columns = 0;
  uint16_t rows = 0;
  std::vector<ConsolePortState> ports;
  bool operator==(const ConsoleState&) const = default;
};

}  // namespace trapeze
