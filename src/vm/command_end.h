// What a command's end, or its failure to start, means for whoever ran it: a status and words.
#pragma once

#include <string>

#include "agent/protocol.h"
#include "vm/agent/session.h"

namespace trapeze {

struct CommandFailure {
  int status = 0;
  std::string message;
};

CommandFailure explain_failure(const CommandConfig& command, const agent::ExecFailed& failure);
int status_of(const agent::Exited& end);

}  // namespace trapeze
