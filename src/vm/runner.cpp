#include "vm/runner.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "base/log.h"
#include "base/startup_memory.h"
#include "vm/command_end.h"

namespace trapeze {
namespace {

using std::chrono::seconds;

// From the order to power off to "it hangs". A guest on a loaded host needs well under a second.
constexpr seconds kPowerOffLimit{10};
constexpr seconds kSlowBootNotice{60};
// For a program of the host that takes nothing of what the guest has sent it.
constexpr seconds kDeliveryLimit{5};
constexpr size_t kTailLines = 48;         // a panic with its call trace and registers
constexpr std::byte kSerialEscape{0x01};  // Ctrl-A, then x, as in other machine monitors

// Linux writes 0x1234 there before a warm reset and 0 before a cold one (arch/x86/kernel/reboot.c).
// With reboot=panic_warm on its command line it is warm after a panic only.
constexpr Gpa kBiosResetFlag{0x472};
constexpr uint16_t kWarmReset = 0x1234;

constexpr int kStatusKilled = kStatusSignalBase + SIGKILL;
constexpr const char* kStopped = "stopped by `trapeze stop`";

}  // namespace

Result<RunOutcome> run_vm(const RunConfig& config) {
  const auto runner = TRY(Runner::create(config));
  return runner->run();
}

Runner::Runner(const RunConfig& config, std::unique_ptr<EventLoop> loop)
    : config_(config), loop_(std::move(loop)) {
  outcome_.timeline.process_start_ns = config.process_start_ns;
}

Runner::~Runner() {
  if (vm_ != nullptr) vm_->stop();
}

Result<std::unique_ptr<Runner>> Runner::create(const RunConfig& config) {
  auto loop = TRY(EventLoop::create());
  std::unique_ptr<Runner> runner(new Runner(config, std::move(loop)));
  TRY(runner->claim_name());
  TRY(runner->connect_signals());
  TRY(runner->open_console());
  TRY(runner->build());
  TRY(runner->enter_raw_mode());
  return runner;
}

Result<void> Runner::connect_signals() {
  signals_ = TRY(SignalWatch::create(*loop_, [this](int number) { on_signal(number); }));
  return {};
}

Result<void> Runner::open_console() {
  int fd = -1;
  switch (config_.console) {
    case ConsoleMode::None:
      break;
    case ConsoleMode::Stdio:
      // A command's stdout is its own; the guest's boot messages go beside it.
      fd = config_.command ? STDERR_FILENO : STDOUT_FILENO;
      break;
    case ConsoleMode::File:
      console_file_ = Fd(::open(config_.console_path.c_str(),
                                O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, 0644));
      if (!console_file_.is_open()) return fail_errno("--console {}", config_.console_path);
      fd = console_file_.get();
      break;
  }
  if (fd >= 0) {
    auto output = TRY(StreamFd::borrow(fd, StreamFd::Direction::Write));
    console_sink_ = TRY(FdSink::create(std::move(output)));
    console_sink_->set_on_lost([this] {
      if (config_.command || config_.console != ConsoleMode::Stdio) return;
      // Nobody reads the console: what a program does whose stdout is gone.
      loop_->post([this] { give_up(kStatusSignalBase + SIGPIPE, {}); });
    });
  }
  ByteSink* next = console_sink_.get();
  if (managed_ != nullptr && managed_->shows_serial()) next = &managed_->show_serial(next);
  console_ = std::make_unique<SerialTail>(next);
  return {};
}

Result<void> Runner::claim_name() {
  if (!config_.managed) return {};
  ManagedHandlers handlers;
  handlers.stop = [this](std::chrono::milliseconds timeout) { stop_ordered(timeout); };
  managed_ = TRY(ManagedVm::create(*loop_, config_, std::move(handlers)));
  return {};
}

Result<void> Runner::build() {
  VmConnections connections{.loop = *loop_, .serial_output = *console_, .ports = {}};
  if (config_.command) {
    const HostStreams streams = managed_ != nullptr ? managed_->streams() : HostStreams{};
    session_ = TRY(AgentSession::create(*loop_, *config_.command, streams, *this));
    connections.ports = session_->ports();
  }
  if (managed_ != nullptr) connections.agent_socket = managed_->agent_socket();
  vm_ = TRY(VmBuilder::build(config_.vm, connections));
  if (managed_ != nullptr) TRY(managed_->publish(*vm_, session_.get()));
  outcome_.timeline.vm_built_ns = now_ns();
  return {};
}

RunOutcome Runner::run() {
  if (!config_.command) {
    phase_ = Phase::Running;
    if (config_.console == ConsoleMode::Stdio) start_serial_input();
  }
  start_timers();
  vm_->start([this] { on_vm_end(); });
  release_startup_memory();
  if (!config_.command) tell_started();
  loop_->run();
  if (managed_ != nullptr) managed_->finish();
  if (console_sink_ != nullptr) console_sink_->stop();
  vm_->stop();
  raw_terminal_.reset();
  if (outcome_.status == kStatusTimeout) log(LogLevel::Info, "{}", vm_->describe_vcpus());
  outcome_.timeline.first_instruction_ns = vm_->first_instruction_ns();
  outcome_.timeline.first_instruction_cpu_ns = vm_->first_instruction_cpu_ns();
  outcome_.timeline.guest_instructions = vm_->instructions();
  outcome_.timeline.vm_stopped_ns = now_ns();
  outcome_.timeline.accel = vm_->accel_name();
  outcome_.timeline.accel_reason = vm_->accel_reason();
  outcome_.stats = vm_->stats();
  if (outcome_.timeline.exit_ns == 0) outcome_.timeline.exit_ns = outcome_.timeline.vm_stopped_ns;
  return std::move(outcome_);
}

void Runner::start_timers() {
  if (config_.timeout) {
    loop_->start_timer(*config_.timeout, [this] {
      const auto limit = std::chrono::duration<double>(*config_.timeout).count();
      give_up(kStatusTimeout, fmt::format("timed out after {:g} s", limit));
    });
  }
  if (config_.command && ::isatty(STDERR_FILENO) == 1) {
    loop_->start_timer(kSlowBootNotice, [this] {
      if (phase_ == Phase::Booting) {
        log(LogLevel::Warning, "the guest has not reached its init after {} s; still waiting",
            kSlowBootNotice.count());
      }
    });
  }
}

Result<void> Runner::enter_raw_mode() {
  const bool wanted =
      config_.command ? config_.command->on_terminal : config_.console == ConsoleMode::Stdio;
  if (!wanted || ::isatty(STDIN_FILENO) != 1) return {};
  raw_terminal_ = TRY(RawTerminal::create(STDIN_FILENO));
  if (session_ == nullptr) return {};
  return raw_terminal_->watch_size(
      *loop_, [this](TerminalSize size) { session_->resize(size.rows, size.columns); });
}

void Runner::start_serial_input() {
  if (raw_terminal_ != nullptr && ::isatty(STDERR_FILENO) == 1) {
    log_line(LogLevel::Error, "Ctrl-A x ends the VM\r");
  }
  auto input = StreamFd::borrow(STDIN_FILENO, StreamFd::Direction::Read);
  if (!input) return;  // started without a stdin
  auto pump = InputPump::create(
      *loop_, std::move(*input),
      [this](std::span<const std::byte> bytes) { return take_serial_input(bytes); });
  if (!pump) return;
  serial_input_ = std::move(*pump);
  vm_->serial().set_room_listener(this);
}

size_t Runner::take_serial_input(std::span<const std::byte> bytes) {
  size_t done = 0;
  for (const std::byte byte : bytes) {
    if (raw_terminal_ != nullptr && byte == kSerialEscape && !escape_prefix_seen_) {
      escape_prefix_seen_ = true;
      ++done;
      continue;
    }
    if (escape_prefix_seen_ && byte == std::byte{'x'}) {
      give_up(0, "ended by Ctrl-A x");
      return bytes.size();
    }
    const auto value = static_cast<uint8_t>(byte);
    if (vm_->serial().receive({&value, 1}) == 0) return done;
    escape_prefix_seen_ = false;
    ++done;
  }
  return done;
}

void Runner::room_available() {
  serial_input_->resume();
  if (managed_ != nullptr) managed_->room_available();
}

void Runner::on_signal(int number) {
  const bool has_running_command = session_ != nullptr && phase_ == Phase::Running;
  if (has_running_command) return forward(number);
  if (number == SIGUSR1 || number == SIGUSR2) return;
  give_up(status_known_ ? outcome_.status : kStatusSignalBase + number, {});
}

void Runner::forward(int number) {
  if (insistence_.insists(number, now_ns())) {
    return give_up(kStatusSignalBase + number, "interrupted repeatedly: the VM was stopped");
  }
  session_->send_signal(number);
}

void Runner::agent_ready() {
  outcome_.timeline.init_ns = now_ns();
  // From here on signals belong to the command.
  if (phase_ == Phase::Booting) phase_ = Phase::Running;
}

void Runner::command_started() {
  outcome_.timeline.command_ns = now_ns();
  if (managed_ != nullptr) managed_->agent_is_ready();
  tell_started();
}

void Runner::tell_started() {
  if (config_.managed && config_.managed->on_started) config_.managed->on_started();
}

void Runner::stop_ordered(std::chrono::milliseconds timeout) {
  const bool can_ask = session_ != nullptr && phase_ == Phase::Running && timeout.count() != 0;
  if (!can_ask) return give_up(status_known_ ? outcome_.status : kStatusKilled, kStopped);
  session_->send_signal(SIGTERM);
  // An interactive shell ignores SIGTERM; a terminal that goes away is what ends it.
  if (config_.command->on_terminal) session_->send_signal(SIGHUP);
  loop_->start_timer(timeout, [this] {
    if (phase_ != Phase::Running) return;
    outcome_.status = kStatusKilled;
    status_known_ = true;
    say(kStopped);
    order_power_off();
  });
}

void Runner::command_failed(const agent::ExecFailed& failure) {
  if (has_vm_ended()) return;
  CommandFailure explained = explain_failure(*config_.command, failure);
  say(std::move(explained.message));
  outcome_.status = explained.status;
  status_known_ = true;
  order_power_off();
}

void Runner::command_ended(const agent::Exited& end) {
  if (has_vm_ended()) return;
  outcome_.timeline.exit_ns = now_ns();
  if (!status_known_) outcome_.status = status_of(end);
  status_known_ = true;
  order_power_off();
}

void Runner::agent_broken(const std::string& why) {
  if (has_vm_ended()) return;
  give_up(kStatusOwnError, "the guest's agent failed: " + why);
}

void Runner::escape_typed() { give_up(kStatusSignalBase + SIGHUP, "ended by Ctrl-] three times"); }

void Runner::output_lost(const char* stream, int os_error) {
  // A closed pipe is the reader's way of saying "enough"; the command gets its SIGPIPE.
  if (os_error == EPIPE) return;
  say(fmt::format("cannot write the command's {}: {}", stream, errno_text(os_error)));
}

void Runner::order_power_off() {
  phase_ = Phase::Ending;
  session_->power_off();
  loop_->start_timer(kPowerOffLimit, [this] {
    if (phase_ != Phase::Ending) return;
    give_up(outcome_.status,
            fmt::format("the guest did not power off within {} s after its command: stopped",
                        kPowerOffLimit.count()));
  });
}

void Runner::give_up(int status, std::string message) {
  if (phase_ == Phase::Over) return;
  phase_ = Phase::Over;
  outcome_.status = status;
  if (!message.empty()) say(std::move(message));
  if (console_sink_ != nullptr) console_sink_->stop();
  vm_->request_end({.reason = EndReason::Requested});
  loop_->stop();
}

void Runner::on_vm_end() {
  if (phase_ == Phase::Over) return;
  const bool is_ordered = phase_ == Phase::Ending;
  phase_ = Phase::Delivering;
  vm_->stop();
  const VmEnd end = vm_->end();
  if (!is_ordered || end.reason != EndReason::PoweredOff) explain_end(end);
  status_known_ = true;
  deliver_rest();
}

void Runner::deliver_rest() {
  vm_->deliver_rest([this] {
    phase_ = Phase::Over;
    loop_->stop();
  });
  if (phase_ == Phase::Over) return;
  raw_terminal_.reset();  // from here on Ctrl-C is a signal
  watch_delivery(vm_->undelivered_bytes());
}

void Runner::watch_delivery(uint64_t undelivered) {
  loop_->start_timer(kDeliveryLimit, [this, undelivered] {
    if (phase_ == Phase::Over) return;
    const uint64_t left = vm_->undelivered_bytes();
    if (left < undelivered) return watch_delivery(left);
    give_up(
        outcome_.status,
        fmt::format("{} bytes that the guest sent over vsock are lost: nobody took them for {} s",
                    left, kDeliveryLimit.count()));
  });
}

void Runner::explain_end(const VmEnd& end) {
  const bool agent_mode = session_ != nullptr;
  switch (end.reason) {
    case EndReason::PoweredOff:
      if (!agent_mode) return;
      outcome_.status = kStatusOwnError;
      say_with_serial_tail("the guest powered off before its command ended");
      return;
    case EndReason::Reset:
      explain_reset();
      return;
    case EndReason::DebugExit:
      outcome_.status = static_cast<int>(end.debug_status & 0xff);
      log(LogLevel::Info, "debug exit with status {}", end.debug_status);
      return;
    case EndReason::TripleFault:
      outcome_.status = kStatusOwnError;
      say_with_serial_tail("the guest shut its CPU down (triple fault): " + end.detail);
      return;
    case EndReason::AccelError:
      outcome_.status = kStatusOwnError;
      say_with_serial_tail("the virtual CPU cannot go on: " + end.detail);
      return;
    case EndReason::Requested:
      return;
  }
}

void Runner::explain_reset() {
  const auto flag = vm_->memory().load<uint16_t>(kBiosResetFlag);
  if (vm_->is_linux() && flag && *flag == kWarmReset) {
    outcome_.status = kStatusOwnError;
    say_with_serial_tail("the guest's kernel panicked");
  } else if (session_ != nullptr && !status_known_) {
    outcome_.status = kStatusOwnError;
    say_with_serial_tail("the guest reset itself before its command ended");
  } else {
    // Without an agent a reset is a way to end, as a power-off is.
    log(LogLevel::Info, "the guest reset itself: ended");
  }
}

void Runner::say(std::string message) { outcome_.messages.push_back(std::move(message)); }

void Runner::say_with_serial_tail(std::string message) {
  const bool already_shown = config_.console == ConsoleMode::Stdio;
  const std::string tail = already_shown ? std::string() : console_->tail(kTailLines);
  if (!tail.empty()) message += "; the last of its console:\n" + tail;
  say(std::move(message));
}

}  // namespace trapeze
