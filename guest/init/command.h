// Starts the command of an Exec order.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "agent/protocol.h"

namespace trapeze::guest {

struct Command {
  pid_t pid = -1;
  // Our ends, non-blocking. On a terminal the pty's master is both stdin and stdout, and there is
  // no stderr. -1: closed.
  int stdin_to = -1;
  int stdout_from = -1;
  int stderr_from = -1;
  bool on_terminal = false;
};

struct StartFailure {
  agent::ExecStage stage = agent::ExecStage::Setup;
  int os_error = 0;  // 0: it was started
};

// `strings` was checked by agent::decode_exec and must stay as it is until this returns.
StartFailure start_command(const agent::ExecHeader& order, std::span<const std::byte> strings,
                           Command& command);

}  // namespace trapeze::guest
