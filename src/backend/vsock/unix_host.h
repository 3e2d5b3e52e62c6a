// UnixHost: the host's side of a virtio-vsock as unix sockets, compatible with Firecracker.
//
// - A program on the host connects to PATH, writes "CONNECT <port>\n" and, when the guest has
//   accepted, reads "OK <port on the host's side>\n"; from then on it talks to the guest. When the
//   guest refuses, the socket is closed.
// - When the guest connects to port P of the host (CID 2), PATH_P is connected to; if nobody
//   listens there, the guest's connection is refused.
//
// Threads: as virtio/vsock/host.h says.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "virtio/vsock/host.h"

namespace trapeze {

class UnixHost final : public VsockHost {
 public:
  // Who may connect, beside what the permissions of the socket and its folder say.
  enum class Peers : uint8_t { Any, OwnUserAndRoot };

  // Listens on `path`. A socket that nobody listens on any more is replaced; one in use, and
  // anything else of that name, is refused. `loop` must outlive the host.
  static Result<std::unique_ptr<UnixHost>> create(const std::string& path, EventLoop& loop,
                                                  Peers peers = Peers::Any);
  // Removes the socket.
  ~UnixHost() override;
  UnixHost(const UnixHost&) = delete;
  UnixHost& operator=(const UnixHost&) = delete;

  void attach(VsockGuest* guest) override { guest_ = guest; }
  std::unique_ptr<VsockStream> connect(uint32_t host_port) override;

  // The port of "CONNECT <port>", without the newline.
  static std::optional<uint32_t> parse_order(std::string_view line);

 private:
  static constexpr size_t kMaxGreeters = 256;
  static constexpr size_t kMaxOrderBytes = 32;
  // A connection that has not said where it wants to go.
  struct Greeter {
    Fd socket;
    std::string line;
  };
  using Greeters = std::list<Greeter>;

  UnixHost(std::string path, EventLoop& loop, Peers peers)
      : path_(std::move(path)), loop_(loop), peers_(peers) {}
  Result<void> listen();
  void on_connection();
  void on_order(Greeters::iterator greeter);
  void drop(Greeters::iterator greeter);

  const std::string path_;
  EventLoop& loop_;
  const Peers peers_;
  VsockGuest* guest_ = nullptr;
  Fd listener_;
  Greeters greeters_;
};

}  // namespace trapeze
