// ControlServer: the machine's side of its control socket (protocol.h). Clients belong to the same
// user or are root; they are as good as the administrator, but none may hold up the machine.
//
// Threads: the loop's thread, or while nothing runs the loop.
#pragma once

#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "vm/manage/console_hub.h"
#include "vm/manage/protocol.h"

namespace trapeze::manage {

enum class AgentState : uint8_t { None, Booting, Ready };

// The machine. Calls come on the loop's thread.
class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  virtual AgentState agent_state() const = 0;
  virtual void stop_ordered(std::chrono::milliseconds timeout) = 0;
  // The answer comes by answer_balloon(), to all that wait for it by then; or why there is none.
  virtual Result<void> balloon_ordered(const BalloonOrder& order) = 0;
};

class ControlServer {
 public:
  static constexpr size_t kMaxConnections = 256;

  // Listens at `path`, where nothing must be. `loop`, `console` and `handler` outlive it.
  static Result<std::unique_ptr<ControlServer>> create(const std::string& path, EventLoop& loop,
                                                       ConsoleHub& console,
                                                       ControlHandler& handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  void agent_state_changed();
  void answer_balloon(const std::string& text);
  // Gives viewers the rest of the output, for a moment that is bounded.
  void finish();

  // For tests and the fuzzer: what a connection does with a packet. False: it is to be closed.
  size_t connections() const { return connections_.size(); }

 private:
  struct Connection {
    Fd socket;
    bool waits_for_agent = false;
    bool waits_for_balloon = false;
    bool is_viewer = false;
    bool wants_room = false;       // its socket takes no more
    uint64_t position = 0;         // of the console's output
    std::vector<std::byte> input;  // that the guest has not taken yet
    uint32_t events = EPOLLIN;
  };
  using Connections = std::list<Connection>;

  ControlServer(EventLoop& loop, ConsoleHub& console, ControlHandler& handler)
      : loop_(loop), console_(console), handler_(handler) {}
  Result<void> listen(const std::string& path);
  void on_connection();
  void on_ready(Connections::iterator connection, uint32_t events);
  // These give false when the connection is to be closed.
  bool receive(Connection& connection);
  bool handle(Connection& connection, const Packet& packet);
  bool answer_agent_wait(Connection& connection);
  bool send(Connection& connection, PacketType type, std::span<const std::byte> payload);
  bool fail_request(Connection& connection, const std::string& why);
  bool show_output(Connection& connection);
  void pass_input(Connection& connection);
  void update_events(Connection& connection);
  void output_arrived();
  void input_possible();
  void drop(Connections::iterator connection);

  EventLoop& loop_;
  ConsoleHub& console_;
  ControlHandler& handler_;
  Fd listener_;
  Connections connections_;
};

}  // namespace trapeze::manage
