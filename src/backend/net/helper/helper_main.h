// The process behind `--net user` (backend/net/user_backend.h starts it): takes its order from the
// socket kHelperSocket, sets the network up, gives up its rights, and serves until the VMM is gone.
#pragma once

#include <cstdint>

namespace trapeze {

inline constexpr const char* kNetHelperCommand = "net-helper";  // the program's first argument

// The process's exit status.
int run_net_helper();

// Its body; tests run it on a thread of theirs, and keep their rights.
enum class HelperRights : uint8_t { GiveUp, Keep };
int serve_user_network(int socket, HelperRights rights);

}  // namespace trapeze
