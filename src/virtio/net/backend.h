// The two ends of one virtual network card. A back end implements NetBackend and answers to a
// NetClient; this header is all that it knows of the device.
//
// Threads: all calls, both ways, on the device's EventLoop thread (or while nothing runs the loop).
//
// A frame in either direction is a net::Header (virtio/net/protocol.h) and an Ethernet frame, in
// the guest's memory: a back end uses the bytes once, and copies what it wants to check.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace trapeze {

class RingService;

// The device.
class NetClient {
 public:
  virtual ~NetClient() = default;
  // What want() asked for; may be spurious.
  virtual void net_ready(uint16_t pair, bool can_receive, bool can_send) = 0;
  // There is nothing on the other side any more, for good. The back end has told the user.
  virtual void net_gone() = 0;
};

struct NetInfo {
  std::string name;  // for messages: "tap0"
  uint16_t pairs = 1;
  // Feature bits of virtio/net/protocol.h: what it does for frames of the guest (checksum,
  // segmentation), and what it may hand to a guest that says it can take it.
  uint64_t offloads = 0;
  std::optional<uint16_t> mtu;  // what the guest is to use
};

class NetBackend {
 public:
  enum class Status : uint8_t { Ok, Blocked, Lost };
  struct Sent {
    size_t frames = 0;  // taken, or dropped as senseless; from the start
    size_t dropped = 0;
    Status status = Status::Ok;  // not Ok: why there are not more
  };
  struct Received {
    size_t bytes = 0;  // of one frame, with its header; what did not fit is lost
    Status status = Status::Ok;
  };
  using Frame = std::span<const iovec>;  // at most 1024 parts

  virtual ~NetBackend() = default;
  virtual const NetInfo& info() const = 0;
  // The device exists from now on; null: it is gone.
  virtual void attach(NetClient* client) = 0;
  // The driver is there and can take frames with these (of info().offloads); 0 frames are plain.
  virtual void set_guest_offloads(uint64_t offloads) = 0;
  // How many pairs carry traffic.
  virtual void use_pairs(uint16_t pairs) = 0;
  // None of them blocks. Frames of the guest are at least a header long.
  virtual Sent send(uint16_t pair, std::span<const Frame> frames) = 0;
  virtual Received receive(uint16_t pair, Frame room) = 0;
  // For which of them net_ready() shall be called when they can go on. At first: neither.
  virtual void want(uint16_t pair, bool receiving, bool sending) = 0;
  // Not null: it works on the rings itself (virtio/ring_service.h), and none of send(), receive()
  // and want() is called while it does.
  virtual RingService* rings() { return nullptr; }
};

}  // namespace trapeze
