// Runs a helper program (apt-get, dpkg-deb, busybox) and collects what it says.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze::kit {

struct ProcessOutput {
  int exit_status = 0;  // 128 + signal when it died of one
  std::string out;      // stdout
  std::string err;      // stderr
};

// Searches PATH; stdin is empty. An error only when the program cannot be started: whoever calls
// judges the exit status.
Result<ProcessOutput> run_process(const std::vector<std::string>& arguments,
                                  const std::filesystem::path& working_directory = ".");
// True when PATH has such a program.
bool program_exists(const std::string& name);
// The last lines of `text` that say something, for an error message.
std::string last_lines(const std::string& text, size_t count);

}  // namespace trapeze::kit
