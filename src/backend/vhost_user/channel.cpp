#include "backend/vhost_user/channel.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/unix_socket.h"

namespace trapeze::vhost_user {

Result<Channel> Channel::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return fail("the path of a socket has at most {} bytes", sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.is_open()) return fail_errno("cannot make a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == ECONNREFUSED) return fail("nobody listens there");
    return fail_errno("cannot connect");
  }
  return Channel(std::move(socket));
}

Result<Channel::Sent> Channel::send(const Message& message) {
  CHECK(message.fds.size() <= kMaxRegions && message.payload.size() <= kMaxPayload);
  Header header;
  header.request = static_cast<uint32_t>(message.request);
  header.flags = kVersion | message.flags;
  header.size = static_cast<uint32_t>(message.payload.size());
  iovec parts[2] = {{&header, sizeof(header)},
                    {const_cast<std::byte*>(message.payload.data()), message.payload.size()}};
  const std::span<const iovec> used(parts, message.payload.empty() ? 1 : 2);
  const ssize_t sent = send_with_fds(socket_.get(), used, message.fds, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return Sent::Full;
  if (sent < 0) return fail_errno("cannot send to it");
  // Less than a page goes into one piece of the socket's memory, or does not go.
  if (static_cast<size_t>(sent) != sizeof(header) + message.payload.size()) {
    return fail("cannot send to it: a message was cut");
  }
  return Sent::Yes;
}

Result<Channel::Got> Channel::fill(size_t wanted) {
  while (filled_ < wanted) {
    const ssize_t got =
        ::recv(socket_.get(), buffer_.data() + filled_, wanted - filled_, MSG_DONTWAIT);
    if (got == 0) return fail("it closed the connection");
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return Got::Nothing;
    if (got < 0 && errno == ECONNRESET) return fail("it closed the connection");
    if (got < 0) return fail_errno("cannot receive from it");
    filled_ += static_cast<size_t>(got);
  }
  return Got::Message;
}

Result<Channel::Got> Channel::receive(Message& message) {
  if (TRY(fill(sizeof(Header))) == Got::Nothing) return Got::Nothing;
  Header header;
  std::memcpy(&header, buffer_.data(), sizeof(header));
  if ((header.flags & kVersionMask) != kVersion) {
    return fail("it does not speak vhost-user (flags {:#x})", header.flags);
  }
  if (header.size > kMaxPayload) return fail("it sent a message of {} bytes", header.size);
  if (TRY(fill(sizeof(Header) + header.size)) == Got::Nothing) return Got::Nothing;
  // Only compared with the request that is under way.
  message.request = static_cast<Request>(header.request);
  message.flags = header.flags & ~kVersionMask;
  message.payload.assign(buffer_.data() + sizeof(Header),
                         buffer_.data() + sizeof(Header) + header.size);
  message.fds.clear();
  filled_ = 0;
  return Got::Message;
}

}  // namespace trapeze::vhost_user
