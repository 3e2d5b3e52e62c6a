#include "vm/command_end.h"

#include "vm/run.h"

namespace trapeze {

CommandFailure explain_failure(const CommandConfig& command, const agent::ExecFailed& failure) {
  const std::string program = command.argv.empty() ? "/bin/sh" : command.argv.front();
  const std::string reason = errno_text(static_cast<int>(failure.os_error));
  switch (failure.stage) {
    case agent::ExecStage::Mount: {
      const bool is_known = failure.mount < command.mounts.size();
      return {kStatusOwnError,
              fmt::format("cannot mount the shared folder {} in the guest: {}",
                          is_known ? command.mounts[failure.mount].guest_path : "?", reason)};
    }
    case agent::ExecStage::WorkingDirectory:
      return {kStatusOwnError, fmt::format("cannot change to the folder {} in the guest: {}",
                                           command.working_directory, reason)};
    case agent::ExecStage::Exec:
      return {failure.os_error == ENOENT ? kStatusNotFound : kStatusCannotExecute,
              fmt::format("{}: {} (in the guest)", program, reason)};
    case agent::ExecStage::Setup:
      return {kStatusOwnError, fmt::format("the guest cannot start {}: {}", program, reason)};
  }
  // The guest's word, and the guest is hostile.
  return {kStatusOwnError, "the guest's agent failed: it reports an unknown failure"};
}

int status_of(const agent::Exited& end) {
  const int value = static_cast<int>(end.value & 0xff);
  return end.kind == agent::EndKind::Signaled ? kStatusSignalBase + value : value;
}

}  // namespace trapeze
