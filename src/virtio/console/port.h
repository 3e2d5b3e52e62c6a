// The two ends of one virtio-console port. A back end implements ConsolePort and is given a
// ConsoleGuest; this header is all that it knows of the device.
//
// Threads: all calls, both ways, on the device's EventLoop thread (or while nothing runs the loop).
// Calls of ConsoleGuest may come from inside a ConsolePort callback, except where it says not.
// Bytes keep their order; none are lost or repeated while both ends are open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace trapeze {

// The guest's end, implemented by the console device.
class ConsoleGuest {
 public:
  virtual ~ConsoleGuest() = default;
  // Host to guest. Returns how many bytes were taken; fewer than all means "not now" (the guest has
  // not opened the port, or gave no buffers): ConsolePort::on_guest_ready() tells when to go on.
  virtual size_t send(std::span<const std::byte> bytes) = 0;
  // Guest to host may go on, after ConsolePort::receive() took less than all. Not from inside
  // receive(), which would call itself.
  virtual void output_ready() = 0;
  // What the guest sees of the host's end. With false a reader in the guest gets end of file after
  // the bytes sent so far. The device starts with true.
  virtual void set_host_open(bool open) = 0;
  // Size of the terminal at the host's end, for ports that are consoles.
  virtual void resize(uint16_t columns, uint16_t rows) = 0;
};

// The host's end, implemented by a back end. Must outlive the device that it is attached to.
class ConsolePort {
 public:
  virtual ~ConsolePort() = default;
  // The device exists from now on; null: it is gone, do not call it again.
  virtual void attach(ConsoleGuest* guest) = 0;
  // Guest to host. The bytes are the guest's memory: copy or write them, do not look twice. Returns
  // how many were taken. Fewer than all means "not now": the guest's writer waits until
  // ConsoleGuest::output_ready(). Must not block.
  virtual size_t receive(std::span<const std::byte> bytes) = 0;
  // The guest takes bytes again. May be spurious.
  virtual void on_guest_ready() = 0;
  // A program in the guest opened or closed the port. A reset of the device closes it.
  virtual void on_guest_open(bool open) = 0;
};

}  // namespace trapeze
