// virtio-console on the wire (virtio 1.2 §5.3).
#pragma once

#include <cstddef>
#include <cstdint>

#include "virtio/features.h"

namespace trapeze::console {

inline constexpr uint64_t kFeatureSize = feature_bit(0);       // VIRTIO_CONSOLE_F_SIZE
inline constexpr uint64_t kFeatureMultiport = feature_bit(1);  // VIRTIO_CONSOLE_F_MULTIPORT

// §5.3.4. emerg_wr is there but its feature is not offered.
struct Config {
  uint16_t cols;
  uint16_t rows;
  uint32_t max_nr_ports;
  uint32_t emerg_wr;
};
static_assert(sizeof(Config) == 12);

// §5.3.6.2
enum class Event : uint16_t {
  DeviceReady = 0,
  PortAdd = 1,
  PortRemove = 2,
  PortReady = 3,
  ConsolePort = 4,
  Resize = 5,
  PortOpen = 6,
  PortName = 7,
};

struct Control {
  uint32_t id;
  uint16_t event;
  uint16_t value;
};
static_assert(sizeof(Control) == 8);

// §5.3.2: 0 and 1 are port 0, 2 and 3 the control queues, then two for each further port.
inline constexpr uint16_t kControlReceiveQueue = 2;
inline constexpr uint16_t kControlTransmitQueue = 3;
constexpr uint16_t receive_queue(size_t port) {
  return static_cast<uint16_t>(port == 0 ? 0 : 2 + 2 * port);
}
constexpr uint16_t transmit_queue(size_t port) {
  return static_cast<uint16_t>(receive_queue(port) + 1);
}

}  // namespace trapeze::console
