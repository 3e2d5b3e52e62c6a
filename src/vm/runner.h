// Runner: one run of vm/run.h. Everything happens on the loop's thread, which is the caller's.
//
// Phase        leaves on                                          to
// Booting      agent_ready (or no command: start)                 Running
// Running      command ended or failed: orders power-off          Ending
//              the VM ended                                       Delivering
//              a signal, the timeout, an escape                   Over
// Ending       the VM ended                                       Delivering
//              it did not in kPowerOffLimit                       Over
// Delivering   what the guest sent is where it belongs, or
//              nobody took any of it in kDeliveryLimit            Over
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "backend/console/fd_sink.h"
#include "backend/console/input_pump.h"
#include "backend/console/terminal.h"
#include "base/event_loop.h"
#include "vm/agent/session.h"
#include "vm/builder.h"
#include "vm/insistence.h"
#include "vm/managed_vm.h"
#include "vm/run.h"
#include "vm/serial_tail.h"
#include "vm/signals.h"

namespace trapeze {

class Runner final : private AgentListener, private RoomListener {
 public:
  static Result<std::unique_ptr<Runner>> create(const RunConfig& config);
  ~Runner() override;

  RunOutcome run();  // once

 private:
  enum class Phase : uint8_t { Booting, Running, Ending, Delivering, Over };

  Runner(const RunConfig& config, std::unique_ptr<EventLoop> loop);
  Result<void> open_console();
  Result<void> claim_name();
  Result<void> connect_signals();
  Result<void> build();
  Result<void> enter_raw_mode();
  void start_serial_input();
  size_t take_serial_input(std::span<const std::byte> bytes);
  void start_timers();
  void on_signal(int number);
  void forward(int number);
  void tell_started();
  void stop_ordered(std::chrono::milliseconds timeout);
  void on_vm_end();
  bool has_vm_ended() const { return phase_ == Phase::Delivering || phase_ == Phase::Over; }
  void deliver_rest();
  void watch_delivery(uint64_t undelivered);
  void explain_end(const VmEnd& end);
  void explain_reset();
  void order_power_off();
  void give_up(int status, std::string message);  // ends the VM at once
  void say(std::string message);
  void say_with_serial_tail(std::string message);
  uint64_t now_ns() const { return clock_.monotonic_ns(); }

  // AgentListener.
  void agent_ready() override;
  void command_started() override;
  void command_failed(const agent::ExecFailed& failure) override;
  void command_ended(const agent::Exited& end) override;
  void agent_broken(const std::string& why) override;
  void escape_typed() override;
  void output_lost(const char* stream, int os_error) override;
  // RoomListener, on a vCPU thread.
  void room_available() override;

  const RunConfig config_;
  const HostClock clock_;
  const std::unique_ptr<EventLoop> loop_;
  Phase phase_ = Phase::Booting;
  RunOutcome outcome_;
  bool status_known_ = false;
  std::unique_ptr<ManagedVm> managed_;  // empty: the machine has no name
  Fd console_file_;
  std::unique_ptr<FdSink> console_sink_;  // empty: nobody sees the serial port
  std::unique_ptr<SerialTail> console_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<AgentSession> session_;
  std::unique_ptr<InputPump> serial_input_;
  std::unique_ptr<RawTerminal> raw_terminal_;
  bool escape_prefix_seen_ = false;  // Ctrl-A on the serial console
  Insistence insistence_;
  std::unique_ptr<Vm> vm_;
};

}  // namespace trapeze
