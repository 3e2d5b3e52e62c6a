// SplitHost: two hosts behind one virtio-vsock: one that the user has asked for, and one for this
// program's own sessions with the guest's agent. The agent's port is reached through the latter
// alone, and what the guest connects to goes to the former alone.
//
// Threads: as virtio/vsock/host.h says.
#pragma once

#include <cstdint>
#include <memory>

#include "virtio/vsock/host.h"

namespace trapeze {

class SplitHost final : public VsockHost, private VsockGuest {
 public:
  // Either host may be null. They outlive this.
  SplitHost(VsockHost* open, VsockHost* own, uint32_t own_port)
      : open_(open), own_(own), own_port_(own_port) {}

  void attach(VsockGuest* guest) override {
    guest_ = guest;
    VsockGuest* const gate = guest == nullptr ? nullptr : this;
    if (own_ != nullptr) own_->attach(guest);
    if (open_ != nullptr) open_->attach(gate);
  }
  std::unique_ptr<VsockStream> connect(uint32_t host_port) override {
    return open_ == nullptr ? nullptr : open_->connect(host_port);
  }

 private:
  // What `open_` wants of the guest.
  void host_connects(uint32_t guest_port, std::unique_ptr<VsockStream> stream) override {
    if (guest_port != own_port_) guest_->host_connects(guest_port, std::move(stream));
  }

  VsockHost* const open_;
  VsockHost* const own_;
  const uint32_t own_port_;
  VsockGuest* guest_ = nullptr;
};

}  // namespace trapeze
