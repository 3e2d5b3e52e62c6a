// What stands behind a virtio-vsock on the host: byte streams, and somebody who makes them. A back
// end implements VsockHost and VsockStream; this header is all that it knows of the device.
//
// Threads: all calls, both ways, on the device's EventLoop thread (or while nothing runs the loop).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace trapeze {

// The device's end of a stream.
class VsockStreamListener {
 public:
  virtual ~VsockStreamListener() = default;
  // What want() asked for; may be spurious. The stream may be destroyed inside.
  virtual void stream_ready() = 0;
};

class VsockStream {
 public:
  enum class Status : uint8_t { Ok, Blocked, End, Failed };
  struct Outcome {
    size_t bytes = 0;
    Status status = Status::Ok;
  };

  virtual ~VsockStream() = default;
  // Null: no more calls.
  virtual void attach(VsockStreamListener* listener) = 0;
  // Neither blocks. read() gives Ok with at least one byte, End at the end of the stream.
  virtual Outcome read(std::span<const iovec> to) = 0;
  virtual Outcome write(std::span<const iovec> from) = 0;
  // For which of them stream_ready() shall be called when they can go on. At first: neither. Of
  // bytes that a read() left behind nobody may tell again: where it filled its room, read on, or
  // want no reading meanwhile.
  virtual void want(bool reading, bool writing) = 0;
  // The other side gets end of file after what was written.
  virtual void end_writing() = 0;
  // The guest has accepted the connection, which has this port on the host's side.
  virtual void accepted(uint32_t host_port) = 0;
};

// The device.
class VsockGuest {
 public:
  virtual ~VsockGuest() = default;
  // Somebody on the host wants to talk to that port of the guest. A refusal destroys the stream.
  virtual void host_connects(uint32_t guest_port, std::unique_ptr<VsockStream> stream) = 0;
};

class VsockHost {
 public:
  virtual ~VsockHost() = default;
  virtual void attach(VsockGuest* guest) = 0;  // null: no more calls
  // The guest wants to talk to that port of the host. Null: nobody listens there.
  virtual std::unique_ptr<VsockStream> connect(uint32_t host_port) = 0;
};

}  // namespace trapeze
