// trapeze ls, stop, exec, console, balloon: running machines by name.
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/cli/commands.h"
#include "app/cli/size.h"
#include "base/bytes.h"
#include "vm/console_client.h"
#include "vm/exec.h"
#include "vm/manage/control_client.h"

namespace trapeze::cli {
namespace {

using manage::RunDirectory;
using manage::RunningVm;
using manage::VmInfo;

// The machine waits 2 s for its guest, and answers without it then.
constexpr std::chrono::seconds kBalloonLimit{30};
constexpr const char* kNameHelp = "Name of the machine (see: trapeze ls)";

Result<RunningVm> find_vm(const std::string& name) {
  const auto directory = TRY(RunDirectory::open());
  return directory.find(name);
}

std::string text_of_age(int64_t seconds) {
  if (seconds < 0) seconds = 0;
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m", seconds / 60);
  if (seconds < 86400) return fmt::format("{}h{:02}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{:02}h", seconds / 86400, seconds / 3600 % 24);
}

std::string text_of_memory(uint64_t bytes) {
  if (bytes % GiB == 0) return fmt::format("{}G", bytes / GiB);
  return fmt::format("{}M", bytes / MiB);
}

// For a line of a table on a terminal: a name in an argument must not move the cursor.
std::string text_of_command(const VmInfo& info) {
  if (info.command.empty()) return info.has_agent ? "(shell)" : "(kernel)";
  std::string text;
  for (const auto& word : info.command) text += (text.empty() ? "" : " ") + word;
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  constexpr size_t kMaxBytes = 60;
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes - 3) + "...";
  return text;
}

nlohmann::json json_of(const RunningVm& vm, int64_t now) {
  nlohmann::json json;
  json["name"] = vm.name;
  json["state"] = vm.info ? "running" : "starting";
  if (!vm.info) return json;
  json["pid"] = vm.info->pid;
  json["accelerator"] = vm.info->accelerator;
  json["cpus"] = vm.info->vcpus;
  json["memory_bytes"] = vm.info->memory_bytes;
  json["started_at"] = vm.info->started_at;
  json["age_s"] = now - vm.info->started_at;
  json["command"] = vm.info->command;
  json["agent"] = vm.info->has_agent;
  json["detached"] = vm.info->is_detached;
  return json;
}

void print_table(const std::vector<RunningVm>& running, int64_t now) {
  fmt::print("{:<20} {:>8} {:<6} {:>4} {:>7} {:>7}  {}\n", "NAME", "PID", "ACCEL", "CPUS", "MEMORY",
             "AGE", "COMMAND");
  for (const auto& vm : running) {
    if (!vm.info) {
      fmt::print("{:<20} {:>8} {:<6} {:>4} {:>7} {:>7}  (starting)\n", vm.name, "-", "-", "-", "-",
                 "-");
      continue;
    }
    const VmInfo& info = *vm.info;
    fmt::print("{:<20} {:>8} {:<6} {:>4} {:>7} {:>7}  {}\n", vm.name, info.pid, info.accelerator,
               info.vcpus, text_of_memory(info.memory_bytes), text_of_age(now - info.started_at),
               text_of_command(info));
  }
}

}  // namespace

ManageCommands::ManageCommands(CLI::App& app) {
  list_ = app.add_subcommand("ls", "List the running machines that have a name");
  list_->add_flag("--json", json_, "As JSON, with all that is known");

  stop_ = app.add_subcommand("stop", "End a running machine");
  stop_->add_option("NAME", name_, kNameHelp)->required();
  stop_
      ->add_option("--timeout", timeout_,
                   "How long its command may take to end after SIGTERM, before it is killed: "
                   "seconds, or 500ms, 5m; 0 ends the machine at once")
      ->capture_default_str();
  stop_->footer(
      "The machine's command gets SIGTERM (on a terminal SIGHUP besides). After the timeout the\n"
      "guest kills its programs, puts its file systems in order and powers off; a guest that does\n"
      "not is ended. `trapeze run` then gives the command's status, or 137.");

  exec_ = app.add_subcommand("exec", "Run a further command in a running machine");
  exec_->add_option("NAME", name_, kNameHelp)->required();
  command_.add_to(*exec_);
  exec_->footer(
      "trapeze exec NAME [OPTIONS] -- COMMAND [ARGUMENTS...]; without a command: a shell.\n"
      "Streams, signals and exit status are as with `trapeze run`; the machine goes on when the\n"
      "command ends. A command gets a terminal when stdin and stdout are one.");

  console_ = app.add_subcommand("console", "See and use the console of a running machine");
  console_->add_option("NAME", name_, kNameHelp)->required();
  console_->footer(
      "Shows what was kept of the output (256 KiB), then what comes; what is typed goes in.\n"
      "Ctrl-] typed three times leaves it, and the machine goes on. For a machine started with\n"
      "--detach it is what its command writes and, with -t or a shell, its terminal; otherwise\n"
      "the guest's serial port.");

  balloon_ = app.add_subcommand("balloon", "Take memory from a running machine, or give it back");
  balloon_->add_option("NAME", name_, kNameHelp)->required();
  balloon_->add_option(
      "SIZE", size_,
      "How much memory the balloon takes from the guest, such as 256M; 0 gives all "
      "back. Without it: only show the figures");
  balloon_->footer(
      "Prints sizes, what was given back to the host, and the guest's memory statistics, a name\n"
      "and a number a line. The guest fills the balloon in its own time (actual_bytes), and takes\n"
      "memory out of it when it would run out. The machine needs `run --balloon`.");
}

bool ManageCommands::parsed() const {
  return list_->parsed() || stop_->parsed() || exec_->parsed() || console_->parsed() ||
         balloon_->parsed();
}

int ManageCommands::run(const std::vector<std::string>& command, bool has_command) {
  if (has_command && command.empty()) return own_error("there is no command after --");
  const Result<int> status = list_->parsed()      ? list()
                             : stop_->parsed()    ? stop()
                             : exec_->parsed()    ? exec(command)
                             : balloon_->parsed() ? balloon()
                                                  : console();
  return status ? *status : own_error(status.error().message);
}

Result<int> ManageCommands::list() {
  const auto directory = TRY(RunDirectory::open());
  const auto running = TRY(directory.list());
  const int64_t now = ::time(nullptr);
  if (!json_) {
    print_table(running, now);
    return 0;
  }
  nlohmann::json all = nlohmann::json::array();
  for (const auto& vm : running) all.push_back(json_of(vm, now));
  fmt::print("{}\n", all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

Result<int> ManageCommands::stop() {
  const auto timeout = parse_duration(timeout_);
  if (!timeout && timeout_ != "0") {
    return fail("--timeout {}: not a time; write seconds, or for example 500ms or 5m", timeout_);
  }
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24);
  auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(
      timeout.value_or(std::chrono::nanoseconds(0)));
  if (limit > kLongest) return fail("--timeout {}: at most 24h", timeout_);
  const auto vm = TRY(find_vm(name_));
  TRY(manage::stop_vm(vm, limit));
  return 0;
}

Result<int> ManageCommands::exec(const std::vector<std::string>& command) {
  const bool at_terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  const auto config = TRY(command_.make(command, at_terminal));
  const auto vm = TRY(find_vm(name_));
  {
    auto client = TRY(manage::ControlClient::connect(vm));
    const auto ready = client.ask(manage::PacketType::WaitAgent, {}, std::nullopt);
    if (!ready) return fail("{}: {}", name_, ready.error().message);
  }
  auto outcome = exec_in_vm(vm.path_of(manage::kAgentFile), config);
  if (!outcome) return fail("{}: {}", name_, outcome.error().message);
  for (const auto& message : outcome->messages) own_error(message);
  return outcome->status;
}

Result<int> ManageCommands::console() {
  const auto vm = TRY(find_vm(name_));
  TRY(view_console(vm));
  return 0;
}

Result<int> ManageCommands::balloon() {
  manage::BalloonOrder order;
  if (!size_.empty()) {
    const auto size = size_ == "0" ? std::optional<uint64_t>(0) : parse_size(size_);
    if (!size) return fail("{}: not a size; write for example 256M, or 0", size_);
    order.sets_size = 1;
    order.size_bytes = *size;
  }
  const auto vm = TRY(find_vm(name_));
  auto client = TRY(manage::ControlClient::connect(vm));
  const auto text = client.ask(manage::PacketType::Balloon, bytes_of_value(order), kBalloonLimit);
  if (!text) return fail("{}: {}", name_, text.error().message);
  std::fwrite(text->data(), 1, text->size(), stdout);
  return std::fflush(stdout) == 0 ? Result<int>(0) : fail_errno("stdout");
}

}  // namespace trapeze::cli
