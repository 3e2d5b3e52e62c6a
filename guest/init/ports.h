// The agent's three virtio-console ports (agent/protocol.h), found by name under
// /sys/class/virtio-ports. The driver adds ports a while after its module is loaded; kernel uevents
// say when, so that nobody polls.
#pragma once

namespace trapeze::guest {

struct Ports {
  int control = -1;
  int stdio = -1;
  int stderr_out = -1;
  bool all_open() const { return control >= 0 && stdio >= 0 && stderr_out >= 0; }
};

// A netlink socket with the kernel's uevents; open it before drivers are loaded. -1 on failure.
int open_uevents();
// False when no virtio-console device is bound to its driver: nobody will ever talk to us.
bool has_console_device();
// Waits until all ports are there and the host has opened its ends. Descriptors are non-blocking.
// False (with a complaint) when that cannot work.
bool open_ports(int uevents, Ports& ports);

}  // namespace trapeze::guest
