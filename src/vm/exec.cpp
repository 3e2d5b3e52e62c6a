#include "vm/exec.h"

#include <unistd.h>

#include <csignal>
#include <optional>

#include "backend/console/terminal.h"
#include "base/clock.h"
#include "vm/agent/session_sockets.h"
#include "vm/agent/socket_port.h"
#include "vm/command_end.h"
#include "vm/insistence.h"
#include "vm/run.h"
#include "vm/signals.h"

namespace trapeze {
namespace {

// The guest may be busy with everything else.
constexpr std::chrono::milliseconds kPatience{60'000};

class Exec final : private AgentListener {
 public:
  Exec(const CommandConfig& command, std::unique_ptr<EventLoop> loop)
      : command_(command), loop_(std::move(loop)) {}

  Result<void> connect(const std::string& vsock_path) {
    SessionSockets sockets = TRY(connect_session(vsock_path, kPatience));
    signals_ = TRY(SignalWatch::create(*loop_, [this](int number) { on_signal(number); }));
    session_ = TRY(AgentSession::create(*loop_, command_, HostStreams{}, *this));
    const auto ports = session_->ports();
    Fd* const fds[] = {&sockets.control, &sockets.stdio, &sockets.stderr_out};
    for (size_t i = 0; i < std::size(sockets_); ++i) {
      sockets_[i].emplace(*loop_, std::move(*fds[i]), *ports[i].port, [this] { port_ended(); });
      TRY(sockets_[i]->start());
    }
    if (command_.on_terminal && ::isatty(STDIN_FILENO) == 1) {
      raw_terminal_ = TRY(RawTerminal::create(STDIN_FILENO));
      TRY(raw_terminal_->watch_size(
          *loop_, [this](TerminalSize size) { session_->resize(size.rows, size.columns); }));
    }
    return {};
  }

  ExecOutcome run() {
    loop_->run();
    raw_terminal_.reset();
    return std::move(outcome_);
  }

 private:
  void end(int status, std::string message) {
    if (is_over_) return;
    is_over_ = true;
    outcome_.status = status;
    if (!message.empty()) outcome_.messages.push_back(std::move(message));
    loop_->stop();
  }
  void on_signal(int number) {
    if (insistence_.insists(number, clock_.monotonic_ns())) {
      return end(kStatusSignalBase + number, "interrupted repeatedly: the command is left alone");
    }
    session_->send_signal(number);
  }
  // One may end before the others' bytes have been read; when all have, nothing can come any more.
  void port_ended() {
    if (++ended_ports_ == std::size(sockets_)) {
      end(kStatusOwnError, "the machine ended before the command did");
    }
  }

  void agent_ready() override {}
  void command_started() override {}
  void command_failed(const agent::ExecFailed& failure) override {
    CommandFailure explained = explain_failure(command_, failure);
    end(explained.status, std::move(explained.message));
  }
  void command_ended(const agent::Exited& exited) override { end(status_of(exited), {}); }
  void agent_broken(const std::string& why) override {
    end(kStatusOwnError, "the guest's agent failed: " + why);
  }
  void escape_typed() override { end(kStatusSignalBase + SIGHUP, "ended by Ctrl-] three times"); }
  void output_lost(const char* stream, int os_error) override {
    if (os_error == EPIPE) return;  // the reader has had enough; the command gets its SIGPIPE
    outcome_.messages.push_back(
        fmt::format("cannot write the command's {}: {}", stream, errno_text(os_error)));
  }

  const CommandConfig& command_;
  const HostClock clock_;
  const std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<AgentSession> session_;
  std::optional<SocketPort> sockets_[3];  // before session_: their destruction tells its ports
  std::unique_ptr<RawTerminal> raw_terminal_;
  Insistence insistence_;
  size_t ended_ports_ = 0;
  bool is_over_ = false;
  ExecOutcome outcome_;
};

}  // namespace

Result<ExecOutcome> exec_in_vm(const std::string& vsock_path, const CommandConfig& command) {
  Exec exec(command, TRY(EventLoop::create()));
  TRY(exec.connect(vsock_path));
  return exec.run();
}

}  // namespace trapeze
