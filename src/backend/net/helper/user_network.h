// UserNetwork: the world of `--net user`, seen from the guest. libslirp ends the guest's TCP, UDP
// and ICMP here and speaks to the host's network through ordinary sockets; this class brings it
// frames, time and readiness. One thread, in a process of its own (helper/main.cpp).
//
// Frames for the guest go into a ring, and the VMM is woken once for all of a turn. What does not
// fit waits in `waiting_`; until it is gone, the host's sockets are not read, so TCP slows down its
// senders. Only answers to the guest's own frames can still come then, and are dropped beyond a
// bound.
#pragma once

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/net/helper/guest_frame.h"
#include "backend/net/helper/slirp_library.h"
#include "backend/net/ring/frame_ring.h"
#include "backend/net/user_wire.h"
#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

class UserNetwork {
 public:
  // Listens on the published ports.
  static Result<std::unique_ptr<UserNetwork>> create(
      const SlirpLibrary& slirp, const user_wire::UserNetworkOrder& order,
      std::span<const user_wire::PublishedPort> ports, Fd guest, FrameRingWriter frames);
  ~UserNetwork();
  UserNetwork(const UserNetwork&) = delete;
  UserNetwork& operator=(const UserNetwork&) = delete;

  // Until the other end of the socket is closed.
  void run();
  const Fd& guest() const { return guest_; }

 private:
  static constexpr size_t kMaxWaitingBytes = 4 << 20;
  static constexpr size_t kBatch = 16;

  struct Timer {
    SlirpTimerId id;
    void* opaque;
    int64_t at_ms;
  };
  struct Callbacks;

  UserNetwork(const SlirpLibrary& slirp, const user_wire::UserNetworkOrder& order,
              bool has_udp_ports, Fd guest, FrameRingWriter frames);
  Result<void> publish(const user_wire::PublishedPort& port);
  bool take_guest_frames();
  void handle_message(std::span<std::byte> message);
  void send_to_guest(std::span<const std::byte> frame);
  bool try_send(std::span<const std::byte> frame);
  void send_waiting();
  void wait(uint32_t timeout_ms);
  void run_timers();
  uint32_t timer_delay_ms(uint32_t limit_ms) const;

  const SlirpLibrary slirp_;
  const in_addr guest_address_;
  Fd guest_;
  FrameRingWriter frames_;  // to the guest
  Slirp* network_ = nullptr;
  uint8_t header_flags_ = 0;
  bool is_over_ = false;
  FragmentBudget fragments_;
  std::optional<GatewayGuard> guard_;
  std::vector<std::byte> batch_;  // kBatch messages
  std::deque<std::vector<std::byte>> waiting_;
  size_t waiting_bytes_ = 0;
  std::vector<pollfd> polled_;
  std::vector<std::unique_ptr<Timer>> timers_;
};

}  // namespace trapeze
