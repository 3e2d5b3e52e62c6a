#include "app/cli/command_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "backend/console/terminal.h"

namespace trapeze::cli {

void CommandOptions::add_to(CLI::App& app) {
  app.add_option("--env", env_, "Environment of the command: KEY=VALUE, or KEY to pass it on")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--workdir", workdir_, "Folder in the guest to run the command in");
  app.add_flag("-t,--tty", terminal_, "Run the command on a terminal, as the shell is");
}

Result<CommandConfig> CommandOptions::make(const std::vector<std::string>& command,
                                           bool at_terminal) const {
  CommandConfig result;
  result.argv = command;
  result.working_directory = workdir_;
  result.on_terminal = terminal_ || at_terminal;
  if (result.on_terminal) {
    const TerminalSize size = terminal_size(STDIN_FILENO);
    result.rows = size.rows;
    result.columns = size.columns;
    if (const char* term = std::getenv("TERM")) result.env.push_back(std::string("TERM=") + term);
  }
  for (const auto& variable : env_) {
    const size_t sign = variable.find('=');
    if (sign == 0 || variable.empty())
      return fail("--env {}: a name must stand before =", variable);
    if (sign != std::string::npos) {
      result.env.push_back(variable);
    } else if (const char* value = std::getenv(variable.c_str())) {
      result.env.push_back(variable + "=" + value);
    }
  }
  return result;
}

}  // namespace trapeze::cli
