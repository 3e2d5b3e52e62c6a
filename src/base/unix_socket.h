// Who is at the other end of a unix socket.
#pragma once

#include <sys/types.h>

#include <optional>

namespace trapeze {

struct UnixPeer {
  pid_t pid = 0;  // of who connected, or of who listened
  uid_t uid = 0;
};

// As the kernel knows it from the time of connect() or listen() (SO_PEERCRED, unix(7)).
std::optional<UnixPeer> unix_peer(int socket);
// Whoever may signal and trace this process anyway.
bool is_own_user_or_root(int socket);

}  // namespace trapeze
