#include "base/unix_socket.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>

#include "base/check.h"

namespace trapeze {

std::optional<UnixPeer> unix_peer(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return std::nullopt;
  return UnixPeer{.pid = credentials.pid, .uid = credentials.uid};
}

namespace {

using ControlBytes = std::array<char, CMSG_SPACE(sizeof(int) * kMaxSentFds)>;

}  // namespace

msghdr message_of(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
  return message;
}

ssize_t send_with_fds(int socket, std::span<const iovec> parts, std::span<const int> fds,
                      int flags) {
  CHECK(fds.size() <= kMaxSentFds);
  msghdr message = message_of(parts);
  alignas(cmsghdr) ControlBytes control{};
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(socket, &message, flags);
}

ssize_t receive_with_fds(int socket, std::span<const iovec> parts, std::span<Fd> fds, int flags) {
  msghdr message = message_of(parts);
  alignas(cmsghdr) ControlBytes control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  size_t taken = 0;
  for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(at) + i * sizeof(int), sizeof(int));
      Fd fd(number);
      if (taken < fds.size()) fds[taken++] = std::move(fd);
    }
  }
  return got;
}

bool is_own_user_or_root(int socket) {
  const auto peer = unix_peer(socket);
  return peer && (peer->uid == 0 || peer->uid == ::geteuid());
}

}  // namespace trapeze
