// What unix sockets have and others have not: who is at the other end, and descriptors on the way.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <optional>
#include <span>

#include "base/fd.h"

namespace trapeze {

struct UnixPeer {
  pid_t pid = 0;  // of who connected, or of who listened
  uid_t uid = 0;
};

// As the kernel knows it from the time of connect() or listen() (SO_PEERCRED, unix(7)).
std::optional<UnixPeer> unix_peer(int socket);
// Whoever may signal and trace this process anyway.
bool is_own_user_or_root(int socket);

// For sendmsg(2) and recvmsg(2): `parts`, as many as the kernel takes in one call.
msghdr message_of(std::span<const iovec> parts);

inline constexpr size_t kMaxSentFds = 32;
// As sendmsg(2) and recvmsg(2). Descriptors go with the first byte, at most kMaxSentFds; those that
// come without being expected are closed, and `fds` that did not come are closed ones.
ssize_t send_with_fds(int socket, std::span<const iovec> parts, std::span<const int> fds,
                      int flags);
ssize_t receive_with_fds(int socket, std::span<const iovec> parts, std::span<Fd> fds, int flags);

}  // namespace trapeze
