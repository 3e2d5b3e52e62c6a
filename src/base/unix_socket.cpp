#include "base/unix_socket.h"

#include <sys/socket.h>
#include <unistd.h>

namespace trapeze {

std::optional<UnixPeer> unix_peer(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return std::nullopt;
  return UnixPeer{.pid = credentials.pid, .uid = credentials.uid};
}

bool is_own_user_or_root(int socket) {
  const auto peer = unix_peer(socket);
  return peer && (peer->uid == 0 || peer->uid == ::geteuid());
}

}  // namespace trapeze
