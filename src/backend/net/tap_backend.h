// TapBackend: a network card that is a tap interface of the host. Frames go between the guest's
// memory and the kernel by one readv or writev each; checksums and segmentation are left to
// whoever is behind the tap (IFF_VNET_HDR). Each queue pair is a descriptor of its own.
//
// Threads: create() anywhere; everything else on the loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/net/link_watch.h"
#include "backend/net/vhost_net.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "virtio/net/backend.h"

namespace trapeze {

struct TapSettings {
  std::string name;  // of an interface that exists; empty: make one that goes away at the end
  uint16_t pairs = 1;
  std::optional<uint16_t> mtu;  // else the interface's
  enum class Vhost : uint8_t { Off, IfPossible, On };
  Vhost vhost = Vhost::Off;  // the kernel works on the rings (backend/net/vhost_net.h)
};

class TapBackend final : public NetBackend {
 public:
  static Result<std::unique_ptr<TapBackend>> create(const TapSettings& settings, EventLoop& loop);
  ~TapBackend() override;

  const NetInfo& info() const override { return info_; }
  void attach(NetClient* client) override;
  void set_guest_offloads(uint64_t offloads) override;
  void use_pairs(uint16_t pairs) override;
  Sent send(uint16_t pair, std::span<const Frame> frames) override;
  Received receive(uint16_t pair, Frame room) override;
  void want(uint16_t pair, bool receiving, bool sending) override;
  RingService* rings() override { return vhost_.get(); }

 private:
  struct Queue {
    Fd fd;
    bool is_watched = false;
    bool is_attached = true;
  };

  explicit TapBackend(EventLoop& loop) : loop_(loop) {}
  Result<void> open_queues(const TapSettings& settings);
  Result<void> look_at_interface(const TapSettings& settings);
  Result<void> open_vhost(TapSettings::Vhost wanted);
  bool watch(uint16_t pair, uint32_t events);
  void watch_for_end();
  void look_for_end();
  void handle_ready(uint16_t pair, uint32_t events);
  Status lose();

  EventLoop& loop_;
  NetInfo info_;
  std::vector<Queue> queues_;
  std::unique_ptr<VhostNet> vhost_;        // before the taps that it uses are closed
  std::unique_ptr<LinkWatch> link_watch_;  // while the kernel works on the rings
  NetClient* client_ = nullptr;
  bool is_lost_ = false;
};

}  // namespace trapeze
