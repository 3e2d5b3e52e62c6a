// ControlClient: a client's side of a machine's control socket (protocol.h). Blocks, except where
// it says otherwise.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "vm/manage/protocol.h"
#include "vm/manage/run_directory.h"

namespace trapeze::manage {

class ControlClient {
 public:
  static Result<ControlClient> connect(const RunningVm& vm);

  int fd() const { return socket_.get(); }
  pid_t peer() const { return peer_; }  // the machine's process, as the kernel knows it

  Result<void> send(PacketType type, std::span<const std::byte> payload) const;
  // The next packet, valid until the next call; nothing at the end of the connection, which is that
  // of the machine. With a limit: an error when it passes.
  Result<std::optional<Packet>> receive(std::optional<std::chrono::milliseconds> limit);
  // Sends a request and takes one answer: its payload as a text. Failed is an error.
  Result<std::string> ask(PacketType type, std::span<const std::byte> payload,
                          std::optional<std::chrono::milliseconds> limit);

 private:
  ControlClient(Fd socket, pid_t peer) : socket_(std::move(socket)), peer_(peer) {}
  Fd socket_;
  pid_t peer_;
  std::array<std::byte, kMaxPacketBytes> buffer_{};
};

// Orders the machine to end and waits until it has. One that does not answer is killed.
Result<void> stop_vm(const RunningVm& vm, std::chrono::milliseconds timeout);

}  // namespace trapeze::manage
