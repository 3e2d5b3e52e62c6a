// The options that say how a command runs in the guest: of `trapeze run` and `trapeze exec`.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "vm/agent/session.h"

namespace trapeze::cli {

class CommandOptions {
 public:
  void add_to(CLI::App& app);
  bool any_given() const { return terminal_ || !env_.empty() || !workdir_.empty(); }
  bool wants_terminal() const { return terminal_; }
  // A shell, which an empty command means, gets a terminal where `at_terminal`; others where asked.
  Result<CommandConfig> make(const std::vector<std::string>& command, bool at_terminal) const;

 private:
  std::vector<std::string> env_;
  std::string workdir_;
  bool terminal_ = false;
};

}  // namespace trapeze::cli
