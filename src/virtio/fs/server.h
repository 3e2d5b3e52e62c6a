// The two ends of one shared folder. A back end implements FsServer; this header is all that it
// knows of the device.
//
// Threads: all calls on the device's EventLoop thread (or while nothing runs the loop).
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

namespace trapeze {

// Both lists are guest memory: the bytes change under the reader's hands, and buffers may overlap.
struct FsRequest {
  std::span<const iovec> message;  // a whole FUSE request
  std::span<const iovec> reply;    // room for its reply; may be empty
};

struct FsOutcome {
  // The reply's length, from the start of the room; 0 when the request gets none.
  uint64_t reply_bytes = 0;
  // Up to there the room may have changed, even if the reply is shorter.
  uint64_t touched_bytes = 0;
  bool is_error = false;
  // The request wants a reply and has no room for one.
  bool has_no_room = false;
};

class FsServer {
 public:
  virtual ~FsServer() = default;
  // Whether serve() would usually take no longer than a thread needs to wake up. In the loop's turn
  // on any thread, as is serve() behind it.
  virtual bool is_short(const FsRequest& /*request*/) const { return false; }
  // That the guest should forget what it can, before the next request. As is_short().
  virtual bool wants_forgets() const { return false; }
  // Serves one request to its end. The device waits.
  virtual FsOutcome serve(const FsRequest& request) = 0;
  // The guest's kernel is gone, or starts anew: forgets all that it held.
  virtual void reset() = 0;
};

}  // namespace trapeze
