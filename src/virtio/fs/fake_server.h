// FakeFsServer: an FsServer for tests and fuzzers. It checks what a device owes it and answers with
// a reply of a chosen length.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "virtio/fs/protocol.h"
#include "virtio/fs/server.h"

namespace trapeze {

class FakeFsServer final : public FsServer {
 public:
  bool is_short(const FsRequest&) const override { return all_are_short; }
  bool wants_forgets() const override { return is_full; }
  FsOutcome serve(const FsRequest& request) override {
    std::string message;
    for (const iovec& part : request.message) {
      CHECK(part.iov_len > 0);
      message.append(static_cast<const char*>(part.iov_base), part.iov_len);
      if (message.size() > kMaxKept) break;
    }
    messages.push_back(message.substr(0, kMaxKept));
    uint64_t room = 0;
    for (const iovec& part : request.reply) room += part.iov_len;
    if (room < fs::kReplyHeaderBytes && wants_reply) {
      return {.reply_bytes = 0, .touched_bytes = 0, .is_error = true, .has_no_room = true};
    }
    if (!wants_reply) return {};
    uint64_t left = std::min<uint64_t>(room, reply.size());
    const uint64_t bytes = left;
    const char* from = reply.data();
    for (const iovec& part : request.reply) {
      const uint64_t step = std::min<uint64_t>(left, part.iov_len);
      std::memcpy(part.iov_base, from, step);
      from += step;
      left -= step;
    }
    return {
        .reply_bytes = bytes, .touched_bytes = bytes, .is_error = is_error, .has_no_room = false};
  }
  void reset() override {
    ++resets;
    messages.clear();
  }

  std::vector<std::string> messages;
  std::string reply = std::string(fs::kReplyHeaderBytes, 'r');
  bool wants_reply = true;
  bool is_error = false;
  bool all_are_short = false;
  bool is_full = false;
  int resets = 0;

 private:
  static constexpr size_t kMaxKept = 4096;
};

}  // namespace trapeze
