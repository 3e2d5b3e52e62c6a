// Session: one command, from the host's Exec order to its PowerOff. Single-threaded; sleeps in
// poll() whenever nothing can be done. The main one is process 1's: with its command all others
// end, and then the machine. Further ones are processes of their own (init/sessions.h).
//
// State     leaves on                                    to
// Waiting   Exec order, command started / failed         Running / Reported
// Running   the command ended (SIGCHLD)                  Draining
// Draining  stdout and stderr at their ends, all sent    Reported
// Reported  PowerOff order                               Over
// any       control port closed or senseless             Over
#pragma once

#include "agent/protocol.h"
#include "init/command.h"
#include "init/ports.h"
#include "init/stream.h"

namespace trapeze::guest {

class Session {
 public:
  enum class Kind : uint8_t { Main, Further };

  explicit Session(Kind kind) : kind_(kind) {}
  // Once. `listener`: where further sessions come from, or -1.
  void run(const Ports& ports, int listener);

 private:
  enum class State : uint8_t { Waiting, Running, Draining, Reported, Over };

  void wait();
  void handle_signals();
  void reap();
  void command_ended(int wait_status);
  void end_outputs();
  void handle_control();
  void handle_frame(const agent::FrameHeader& header, std::span<const std::byte> payload);
  void mount(std::span<const std::byte> payload);
  void start(std::span<const std::byte> payload);
  void report_failure(const agent::ExecFailed& failure);
  void set_window_size(const agent::WindowSize& size);
  void pump_streams();
  void close_stdin();
  void close_output(agent::PortRole role);
  void report_when_drained();
  void send(agent::FrameType type, const void* payload, size_t payload_bytes);

  const Kind kind_;
  State state_ = State::Waiting;
  Ports ports_;
  int listener_ = -1;
  int signals_ = -1;
  Command command_;
  Stream stdin_;
  Stream stdout_;
  Stream stderr_;
  agent::ExecFailed mount_failure_;  // of the first Mount that failed; os_error 0: none
  uint32_t mounts_ = 0;              // ordered so far
  agent::Exited exited_;
  bool power_off_asked_ = false;  // by somebody in the guest, e.g. busybox poweroff
  size_t received_ = 0;           // of the control frame being read
  std::byte* frame_ = nullptr;    // that frame, in a buffer that holds the largest one
};

}  // namespace trapeze::guest
