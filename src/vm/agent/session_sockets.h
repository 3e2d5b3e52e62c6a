// The three connections of a further session (agent/protocol.h), made through a machine's vsock
// socket (backend/vsock/unix_host.h). Blocks; for a process that does nothing else yet.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

struct SessionSockets {
  Fd control;
  Fd stdio;
  Fd stderr_out;
};

// The guest is hostile: what it answers is checked, and it may take `patience` for each step.
Result<SessionSockets> connect_session(const std::string& vsock_path,
                                       std::chrono::milliseconds patience);

// The part of it after the first connection, which leads to the agent's port by now. `connect`
// makes the others, to the port that the guest names.
Result<SessionSockets> finish_handshake(Fd control,
                                        const std::function<Result<Fd>(uint32_t port)>& connect);

}  // namespace trapeze
