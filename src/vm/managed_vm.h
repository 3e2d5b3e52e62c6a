// ManagedVm: what a machine with a name has besides: its entry, its control socket, its console,
// and the socket for further sessions. Owned by the Runner; the loop's thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "vm/agent/session.h"
#include "vm/config.h"
#include "vm/manage/console_hub.h"
#include "vm/manage/control_server.h"
#include "vm/manage/run_directory.h"
#include "vm/vm.h"

namespace trapeze {

struct ManagedHandlers {
  std::function<void(std::chrono::milliseconds timeout)> stop;
};

class ManagedVm final : private manage::ControlHandler, private RoomListener {
 public:
  // Claims the name; nothing of the machine exists yet. `config` has `managed`, and outlives this.
  static Result<std::unique_ptr<ManagedVm>> create(EventLoop& loop, const RunConfig& config,
                                                   ManagedHandlers handlers);
  ~ManagedVm() override;

  // The console is the serial port: a sink for its output, which goes to `next`, too.
  bool shows_serial() const { return !console_streams_.is_open(); }
  ByteSink& show_serial(ByteSink* next);
  // Of the first command.
  HostStreams streams() const;
  // Empty: without an agent there are no sessions.
  std::string agent_socket() const;

  // The machine is there: from now on it is listed and takes orders.
  Result<void> publish(Vm& vm, AgentSession* session);
  void agent_is_ready();
  // The serial port takes input again. Any thread.
  void room_available() override { console_->room_available(); }
  // The machine has ended: viewers get the rest.
  void finish();

 private:
  ManagedVm(EventLoop& loop, const RunConfig& config, ManagedHandlers handlers,
            manage::RunEntry entry);
  Result<void> open_command_streams();
  bool read_command_streams();
  size_t write_command_input(std::span<const std::byte> bytes);

  // ControlHandler.
  manage::AgentState agent_state() const override;
  void stop_ordered(std::chrono::milliseconds timeout) override { handlers_.stop(timeout); }
  Result<void> balloon_ordered(const manage::BalloonOrder& order) override;
  void answer_balloon(const BalloonStats& stats);

  EventLoop& loop_;
  const RunConfig& config_;
  const ManagedHandlers handlers_;
  std::unique_ptr<manage::ConsoleHub> console_;
  // A detached command's streams: its ends (one each, because a loop watches an fd once) and ours.
  Fd command_in_;
  Fd command_out_;
  Fd command_err_;
  Fd console_streams_;
  Vm* vm_ = nullptr;
  AgentSession* session_ = nullptr;
  bool is_agent_ready_ = false;
  std::optional<EventLoop::TimerId> stats_timer_;  // the guest is asked for statistics
  // After entry_: connections end when the name is free again.
  std::unique_ptr<manage::ControlServer> server_;
  manage::RunEntry entry_;
};

}  // namespace trapeze
