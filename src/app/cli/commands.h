// The subcommands of trapeze, one file each. A command registers its options on construction and
// does its work in run(), whose result is the exit status.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/cli/command_options.h"
#include "vm/run.h"

namespace trapeze::cli {

class RunCommand {
 public:
  explicit RunCommand(CLI::App& app);
  // `command`: what stood after "--".
  int run(const std::vector<std::string>& command, bool has_command, uint64_t process_start_ns);

 private:
  Result<RunConfig> make_config(const std::vector<std::string>& command, bool has_command);
  Result<void> choose_guest(RunConfig& config, bool wants_agent);
  Result<void> choose_disks(RunConfig& config, bool wants_agent);
  Result<void> choose_nets(RunConfig& config, bool wants_agent);
  Result<void> choose_command(RunConfig& config, const std::vector<std::string>& command);
  Result<void> choose_name(RunConfig& config);
  void choose_console(RunConfig& config) const;
  Result<void> check_timeline() const;
  Result<void> write_timeline(const Timeline& timeline) const;

  std::string accel_ = "auto";
  std::string soft_exec_ = "auto";
  std::string cpu_;
  uint32_t cpus_ = 1;
  std::string memory_ = "512M";
  std::string kit_;
  std::string kernel_;
  std::string initrd_;
  std::string append_;
  std::string console_;
  std::vector<std::string> disks_;
  std::vector<std::string> shares_;
  std::string rootfs_;
  std::string vsock_;
  std::vector<std::string> pmems_;
  std::string balloon_;
  CLI::Option* balloon_option_ = nullptr;
  std::vector<std::string> vhost_users_;
  std::vector<std::string> nets_;
  std::vector<std::string> published_;
  uint32_t io_threads_ = 0;
  CommandOptions command_;
  std::string name_;
  bool detach_ = false;
  std::string timeout_;
  std::string timeline_;
  bool debug_exit_ = false;
  bool test_devices_ = false;
  std::string irqchip_;
  bool cpu_pm_ = false;
  std::optional<uint64_t> halt_poll_ns_;
  bool stats_ = false;
  bool verbose_ = false;
};

class DoctorCommand {
 public:
  explicit DoctorCommand(CLI::App& app);
  int run();

 private:
  std::string kit_;
  bool json_ = false;
  bool bench_ = false;
  bool probe_ = false;
};

class KitCommand {
 public:
  explicit KitCommand(CLI::App& app);
  int run();

 private:
  int build();
  int path();
  int info();

  CLI::App* build_;
  CLI::App* path_;
  CLI::App* info_;
  std::string kit_;
  std::string output_;
};

// ls, stop, exec, console, balloon: running machines by name.
class ManageCommands {
 public:
  explicit ManageCommands(CLI::App& app);
  bool parsed() const;
  bool takes_command() const { return exec_->parsed(); }
  int run(const std::vector<std::string>& command, bool has_command);

 private:
  Result<int> list();
  Result<int> stop();
  Result<int> exec(const std::vector<std::string>& command);
  Result<int> console();
  Result<int> balloon();

  CLI::App* list_;
  CLI::App* stop_;
  CLI::App* exec_;
  CLI::App* console_;
  CLI::App* balloon_;
  std::string size_;
  std::string name_;
  bool json_ = false;
  std::string timeout_ = "10";
  CommandOptions command_;
};

// Prints "trapeze: <message>" on stderr and gives kStatusOwnError.
int own_error(const std::string& message);
// One line a step on stderr, for people only: a pipe or a log file gets nothing.
void show_progress(std::string_view step);

}  // namespace trapeze::cli
