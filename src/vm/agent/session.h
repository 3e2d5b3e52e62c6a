// AgentSession: the host's side of the agent protocol (guest/agent/protocol.h): gives the guest's
// init one command and carries its stdin, stdout and stderr between host descriptors and the
// guest's ports. Bytes go straight from guest memory to the descriptor and wait in the guest when
// the reader is slow.
//
// State          leaves on                                      to
// WaitGuest      Ready from the guest: sends Exec               Starting
// Starting       Started / ExecFailed                           Running / Ended
// Running        Exited                                         Delivering
// Delivering     the announced bytes are written                Ended
// any            a senseless frame (the guest is hostile)       Broken
//
// Threads: the loop's thread, which is also the console device's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/protocol.h"
#include "backend/console/input_pump.h"
#include "base/event_loop.h"
#include "virtio/console/device.h"
#include "vm/agent/output_stream.h"

namespace trapeze {

// A shared folder that the guest mounts before it starts the command.
struct MountConfig {
  std::string tag;         // of its virtio-fs
  std::string guest_path;  // absolute
  bool is_read_only = false;
};

struct CommandConfig {
  std::vector<std::string> argv;  // empty: the guest's shell
  std::vector<std::string> env;   // "KEY=value"
  std::string working_directory;  // empty: the home directory
  std::vector<MountConfig> mounts{};
  bool on_terminal = false;
  uint16_t rows = 24;
  uint16_t columns = 80;
  bool has_escape = true;  // on a terminal: kEscapeByte, as below
};

// Told of a session's progress, on the loop's thread.
class AgentListener {
 public:
  virtual ~AgentListener() = default;
  virtual void agent_ready() = 0;
  virtual void command_started() = 0;
  virtual void command_failed(const agent::ExecFailed& failure) = 0;
  virtual void command_ended(const agent::Exited& end) = 0;  // all its output is written
  virtual void agent_broken(const std::string& why) = 0;
  // The user typed the way out (kEscapeByte, kEscapeCount times in a row).
  virtual void escape_typed() = 0;
  // `stream` is "stdout" or "stderr". The command goes on; its writes to it fail.
  virtual void output_lost(const char* stream, int os_error) = 0;
};

// On a terminal in raw mode Ctrl-C belongs to the guest; Ctrl-] three times does not.
inline constexpr std::byte kEscapeByte{0x1d};
inline constexpr unsigned kEscapeCount = 3;

struct HostStreams {
  int in = 0;
  int out = 1;
  int err = 2;
};

class AgentSession {
 public:
  // `loop` and `listener` must outlive this. Fails when the command is too long.
  static Result<std::unique_ptr<AgentSession>> create(EventLoop& loop, const CommandConfig& command,
                                                      HostStreams streams, AgentListener& listener);
  ~AgentSession();

  // For the console device, which must not outlive this.
  std::vector<ConsolePortConfig> ports();

  // Ignored while there is no command.
  void send_signal(int number);
  // A size from before the command is there is told when it has started.
  void resize(uint16_t rows, uint16_t columns);
  void power_off();

 private:
  enum class State : uint8_t { WaitGuest, Starting, Running, Delivering, Ended, Broken };

  // One port: takes the guest's greeting, then hands the bytes on.
  class Port : public ConsolePort {
   public:
    Port(AgentSession& session, agent::PortRole role) : session_(session), role_(role) {}
    void attach(ConsoleGuest* guest) override { guest_ = guest; }
    size_t receive(std::span<const std::byte> bytes) override;
    void on_guest_ready() override;
    void on_guest_open(bool) override {}
    ConsoleGuest* guest() const { return guest_; }

   private:
    AgentSession& session_;
    const agent::PortRole role_;
    ConsoleGuest* guest_ = nullptr;
    size_t greeted_ = 0;
    agent::Greeting greeting_;
  };

  AgentSession(EventLoop& loop, bool has_escape, std::vector<std::vector<std::byte>> mounts,
               std::vector<std::byte> exec, HostStreams streams, AgentListener& listener);
  void connect_output(OutputStream& output, Port& port, agent::PortRole role, const char* name);
  size_t take_stdin(std::span<const std::byte> bytes);
  size_t receive(agent::PortRole role, std::span<const std::byte> bytes);
  size_t receive_output(OutputStream& output, std::span<const std::byte> bytes);
  size_t receive_control(std::span<const std::byte> bytes);
  void handle_frame(const agent::FrameHeader& header, std::span<const std::byte> payload);
  void started();
  void start_stdin();
  void end_stdin();
  void finish_if_delivered();
  void send_frame(agent::FrameType type, std::span<const std::byte> payload);
  void flush_control();
  void fail(const std::string& why);

  EventLoop& loop_;
  AgentListener& listener_;
  State state_ = State::WaitGuest;
  std::vector<std::vector<std::byte>> mounts_;  // payloads of the Mount orders, until they are sent
  std::vector<std::byte> exec_;                 // payload of the Exec order, until it is sent
  std::vector<std::byte> to_send_;              // frames that the control port has not taken yet
  std::vector<std::byte> incoming_;
  agent::Exited exited_;
  uint64_t stdin_sent_ = 0;
  std::optional<agent::WindowSize> early_size_;
  const bool has_escape_;
  unsigned escapes_seen_ = 0;
  Port control_port_{*this, agent::PortRole::Control};
  Port stdio_port_{*this, agent::PortRole::Stdio};
  Port stderr_port_{*this, agent::PortRole::Stderr};
  OutputStream stdout_;
  OutputStream stderr_;
  const int stdin_fd_;
  std::unique_ptr<InputPump> stdin_;  // from Started on
};

}  // namespace trapeze
