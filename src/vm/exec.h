// Runs a further command in a running machine, connected to this process's stdin, stdout, stderr
// and signals: what `trapeze exec` does once the machine is found and its agent is ready.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "vm/agent/session.h"

namespace trapeze {

struct ExecOutcome {
  int status = 0;                     // as run.h has it
  std::vector<std::string> messages;  // for stderr
};

// `vsock_path`: the machine's socket for sessions. Blocks signals as run_vm() does, with the same
// conditions.
Result<ExecOutcome> exec_in_vm(const std::string& vsock_path, const CommandConfig& command);

}  // namespace trapeze
