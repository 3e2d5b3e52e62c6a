// UserBackend: a network card's way into `--net user`: frames go to the helper process as messages
// of a socket, and come from it through a ring in shared memory. docs/network.md says why it is a
// process of its own.
//
// Threads: create() anywhere; everything else on the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/net/ring/frame_ring.h"
#include "backend/net/user_wire.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "virtio/net/backend.h"

namespace trapeze {

struct UserNetSettings {
  // The most of which two segments fit in the window that Linux begins with, 64 KiB: with but one,
  // libslirp at times holds back what fills it neither wholly nor by half, for 5 s (RFC 1122
  // 4.2.3.4; its persist timer).
  static constexpr uint16_t kDefaultMtu = 32768;
  static constexpr uint16_t kMinMtu = 576;
  static constexpr uint32_t kDefaultNetwork = 0x0a00'0200;  // 10.0.2.0/24
  uint32_t network = kDefaultNetwork;
  uint16_t mtu = kDefaultMtu;
  bool may_reach_host_loopback = false;
  std::vector<user_wire::PublishedPort> ports;
};

// A child process that ends when its socket is closed.
class HelperProcess {
 public:
  HelperProcess() = default;
  explicit HelperProcess(int pid) : pid_(pid) {}
  HelperProcess(HelperProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  HelperProcess& operator=(HelperProcess&& other) noexcept {
    std::swap(pid_, other.pid_);
    return *this;
  }
  // Waits for it; ends it when it does not end by itself.
  ~HelperProcess();

  // Starts `program first_argument` with `socket` as its kHelperSocket and nothing else of ours;
  // its standard streams lead nowhere.
  static Result<HelperProcess> start(const std::string& program, const std::string& first_argument,
                                     const Fd& socket);
  int pid() const { return pid_; }

 private:
  int pid_ = -1;
};

class UserBackend final : public NetBackend {
 public:
  // Puts a helper at the other end of the socket.
  using Launcher = std::function<Result<HelperProcess>(const Fd& socket)>;

  // Does not wait for the helper.
  static Result<std::unique_ptr<UserBackend>> create(const UserNetSettings& settings,
                                                     const Launcher& launch, EventLoop& loop);
  ~UserBackend() override;

  // Waits until the helper is ready; else what went wrong.
  Result<void> wait_until_ready();

  const NetInfo& info() const override { return info_; }
  void attach(NetClient* client) override { client_ = client; }
  void set_guest_offloads(uint64_t offloads) override;
  void use_pairs(uint16_t) override {}
  Sent send(uint16_t pair, std::span<const Frame> frames) override;
  Received receive(uint16_t pair, Frame room) override;
  void want(uint16_t pair, bool receiving, bool sending) override;

 private:
  UserBackend(const UserNetSettings& settings, EventLoop& loop, Fd socket, FrameRingReader ring);
  Result<void> send_order(const UserNetSettings& settings);
  void watch_or_set(int fd, bool& is_watched, uint32_t events,
                    void (UserBackend::*handle)(uint32_t));
  void handle_socket(uint32_t events);
  void handle_frames(uint32_t events);
  void tell_room();
  void unwatch();
  Status lose(const char* reason);

  EventLoop& loop_;
  NetInfo info_;
  // The process after the socket: closing that lets it end.
  HelperProcess helper_;
  Fd socket_;
  NetClient* client_ = nullptr;
  uint8_t header_flags_ = 0;
  FrameRingReader ring_;
  bool is_socket_watched_ = false;
  bool is_ring_watched_ = false;
  bool is_lost_ = false;
};

}  // namespace trapeze
