// Channel: messages over a vhost-user socket, without ever waiting. What comes in is hostile.
//
// One thread. Errors are for good: close it then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/vhost_user/protocol.h"
#include "base/fd.h"
#include "base/result.h"

namespace trapeze::vhost_user {

struct Message {
  Request request = Request::GetFeatures;
  uint32_t flags = 0;  // besides the version
  std::vector<std::byte> payload;
  std::vector<int> fds;  // sent along; not owned
};

class Channel {
 public:
  explicit Channel(Fd socket) : socket_(std::move(socket)) {}
  // To the socket at `path`; the message has the reason, not the path.
  static Result<Channel> connect(const std::string& path);

  const Fd& socket() const { return socket_; }

  enum class Sent : uint8_t { Yes, Full };
  Result<Sent> send(const Message& message);

  enum class Got : uint8_t { Message, Nothing };
  // The next whole message. File descriptors that come along are not taken.
  Result<Got> receive(Message& message);

 private:
  // What is missing for `wanted` bytes; Nothing when it has not come yet.
  Result<Got> fill(size_t wanted);

  Fd socket_;
  std::array<std::byte, sizeof(Header) + kMaxPayload> buffer_{};
  size_t filled_ = 0;
};

}  // namespace trapeze::vhost_user
