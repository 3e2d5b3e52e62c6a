// trapeze: the command line. Each subcommand is a file in cli/.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "app/cli/commands.h"
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

int run_command_line(int argc, char** argv) {
  CLI::App app{"Trapeze runs Linux commands and kernels in a virtual machine."};
  app.name("trapeze");
  app.require_subcommand(1);
  app.set_version_flag("--version", "trapeze " TRAPEZE_VERSION);
  KitCommand kit(*app.add_subcommand("kit", "Make and show the guest kit (kernel and initramfs)"));
  const CLI::App* version = app.add_subcommand("version", "Print the version");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return own_error(std::string(error.what()) + " (see: trapeze --help)");
  }
  if (version->parsed()) return print_version();
  return kit.run();
}

}  // namespace
}  // namespace trapeze::cli

int main(int argc, char** argv) {
  try {
    return trapeze::cli::run_command_line(argc, argv);
  } catch (const std::exception& error) {
    return trapeze::cli::own_error(error.what());
  }
}
