// Runs one VM from start to end, connected to this process's stdin, stdout, stderr and signals:
// what `trapeze run` does once its options are parsed.
#pragma once

#include <string>
#include <vector>

#include "accel/accel.h"
#include "base/result.h"
#include "vm/config.h"
#include "vm/timeline.h"

namespace trapeze {

// Exit statuses, as a shell sees them; 124 is that of timeout(1).
inline constexpr int kStatusTimeout = 124;
inline constexpr int kStatusOwnError = 125;
inline constexpr int kStatusCannotExecute = 126;
inline constexpr int kStatusNotFound = 127;
inline constexpr int kStatusSignalBase = 128;

struct RunOutcome {
  int status = 0;
  std::vector<std::string> messages;  // for stderr, each may have several lines
  Timeline timeline;
  std::vector<Stat> stats;  // what the accelerator counted, for --stats
};

// Blocks the signals it handles and ignores SIGPIPE for the rest of the process: call it before any
// other thread exists, and once. An Error is for what went wrong before the guest ran.
Result<RunOutcome> run_vm(const RunConfig& config);

}  // namespace trapeze
