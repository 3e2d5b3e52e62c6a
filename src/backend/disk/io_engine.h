// IoEngine: carries IoOps out, many at a time, without keeping the loop waiting.
//
// Short writes are the exception: they go to the host's page cache on the loop's own thread, which
// is several times cheaper than handing them to another one. When the host throttles a writer, that
// thread, which serves one disk and no vCPU, waits.
//
// Threads: all calls on the loop's thread, or while nothing runs the loop.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/disk/io_op.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace trapeze {

class IoOwner {
 public:
  virtual ~IoOwner() = default;
  // Once for each operation, also from inside submit(), end_of_batch() and drain(). 0 or an errno.
  virtual void io_done(IoOp& op, int os_error) = 0;
  // After one or more io_done() that came from none of those calls.
  virtual void io_done_end() = 0;
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;
  virtual const char* name() const = 0;
  // Before the first submit(). Nothing is under way when it changes.
  void set_owner(IoOwner* owner) { owner_ = owner; }
  // `op` stays valid, at its place, until io_done(). It may wait for end_of_batch().
  virtual void submit(IoOp& op) = 0;
  virtual void end_of_batch() = 0;
  // Waits until nothing is under way.
  virtual void drain() = 0;
  // Runs one operation at once, waiting for it. 0 or an errno value.
  virtual int run(IoOp& op) { return run_blocking(op); }

 protected:
  static constexpr uint64_t kMaxInlineBytes = uint64_t{1} << 20;
  static bool is_done_inline(const IoOp& op) {
    return op.kind == IoOp::Kind::Write && op.bytes <= kMaxInlineBytes;
  }
  IoOwner* owner_ = nullptr;
};

enum class IoEngineKind : uint8_t { Auto, Uring, Threads };

// `loop` must outlive the engine. Auto: io_uring, or threads where the host does not permit it.
Result<std::unique_ptr<IoEngine>> create_io_engine(IoEngineKind kind, EventLoop& loop);

}  // namespace trapeze
