// trapeze: the command line. Each subcommand is a file in cli/.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>

#include "app/cli/commands.h"
#include "backend/net/helper/helper_main.h"
#include "base/clock.h"
#include "base/log.h"

namespace trapeze::cli {

int own_error(const std::string& message) {
  log_line(LogLevel::Error, message);
  return kStatusOwnError;
}

namespace {

int print_version() {
  fmt::print("trapeze {}\n", TRAPEZE_VERSION);
  return 0;
}

// What CLI11 says is about words on the command line; a person also wants to know what to do.
std::string explain(const CLI::ParseError& error, const char* first_word) {
  std::string text = error.what();
  for (size_t newline = text.find('\n'); newline != std::string::npos; newline = text.find('\n')) {
    text.replace(newline, 1, " ");
  }
  const bool lacks_subcommand = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (lacks_subcommand && first_word != nullptr && first_word[0] != '-') {
    return fmt::format("{}: no such subcommand (see: trapeze --help)", first_word);
  }
  const bool is_extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  return text + (is_extra ? " (a command for the guest goes after --; see: trapeze --help)"
                          : " (see: trapeze --help)");
}

int run_command_line(int argc, char** argv, uint64_t process_start_ns) {
  // Everything after the first "--" is the guest's command, untouched.
  char** const end = argv + argc;
  char** const separator = std::find(argv, end, std::string_view("--"));
  const bool has_command = separator != end;
  const std::vector<std::string> command(has_command ? separator + 1 : end, end);

  CLI::App app{"Trapeze runs Linux commands and kernels in a virtual machine."};
  app.name("trapeze");
  app.require_subcommand(1);
  app.set_version_flag("--version", "trapeze " TRAPEZE_VERSION);
  const CLI::App* run_app =
      app.add_subcommand("run", "Run a command, a shell or a kernel in a virtual machine");
  RunCommand run(*app.get_subcommand("run"));
  ManageCommands manage(app);
  const CLI::App* doctor_app =
      app.add_subcommand("doctor", "Say what this host offers and what is missing");
  DoctorCommand doctor(*app.get_subcommand("doctor"));
  KitCommand kit(*app.add_subcommand("kit", "Make and show the guest kit (kernel and initramfs)"));
  const CLI::App* version = app.add_subcommand("version", "Print the version");
  try {
    app.parse(static_cast<int>(separator - argv), argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return own_error(explain(error, argc > 1 ? argv[1] : nullptr));
  }
  if (run_app->parsed()) return run.run(command, has_command, process_start_ns);
  if (has_command && !manage.takes_command()) {
    return own_error("only `trapeze run` and `trapeze exec` take a command after --");
  }
  if (manage.parsed()) return manage.run(command, has_command);
  if (doctor_app->parsed()) return doctor.run();
  return version->parsed() ? print_version() : kit.run();
}

}  // namespace
}  // namespace trapeze::cli

int main(int argc, char** argv) {
  const uint64_t process_start_ns = trapeze::HostClock().monotonic_ns();
  // Not a command for people: a part of `trapeze run --net user` in a process of its own.
  if (argc == 2 && std::string_view(argv[1]) == trapeze::kNetHelperCommand) {
    return trapeze::run_net_helper();
  }
  try {
    return trapeze::cli::run_command_line(argc, argv, process_start_ns);
  } catch (const std::exception& error) {
    return trapeze::cli::own_error(error.what());
  }
}
