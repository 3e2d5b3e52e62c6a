// The subcommands of trapeze, one file each. A command registers its options on construction and
// does its work in run(), whose result is the exit status.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

namespace trapeze::cli {

// What a shell sees. 126 and 127 are as a shell has them; 124 is that of timeout(1).
inline constexpr int kStatusTimeout = 124;
inline constexpr int kStatusOwnError = 125;
inline constexpr int kStatusCannotExecute = 126;
inline constexpr int kStatusNotFound = 127;
inline constexpr int kStatusSignalBase = 128;

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

// Prints "trapeze: <message>" on stderr and gives kStatusOwnError.
int own_error(const std::string& message);

}  // namespace trapeze::cli
