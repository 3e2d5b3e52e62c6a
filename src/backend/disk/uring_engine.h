// UringEngine: IoOps through io_uring. One system call submits a batch and completes what the host
// has in its page cache; the rest is told by an eventfd that the loop waits for.
#pragma once

#include <liburing.h>

#include <deque>

#include "backend/disk/io_engine.h"
#include "base/fd.h"

namespace trapeze {

class UringEngine final : public IoEngine {
 public:
  // Fails where the kernel is too old or a policy forbids it (containers).
  static Result<std::unique_ptr<IoEngine>> create(EventLoop& loop);
  ~UringEngine() override;

  const char* name() const override { return "io_uring"; }
  void submit(IoOp& op) override;
  void end_of_batch() override;
  void drain() override;

 private:
  explicit UringEngine(EventLoop& loop) : loop_(loop) {}
  Result<void> open();
  void queue(IoOp& op);
  void submit_queued();
  void reap();
  void on_event();

  EventLoop& loop_;
  io_uring ring_{};
  bool is_open_ = false;
  bool is_reaping_ = false;
  bool has_queued_ = false;  // entries that the kernel has not been given
  unsigned in_ring_ = 0;     // given to the kernel or about to be; never more than completions fit
  std::deque<IoOp*> waiting_;  // for a place in the ring
  Fd event_;
};

}  // namespace trapeze
