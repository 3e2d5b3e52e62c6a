// ThreadEngine: IoOps on a few threads, by plain system calls: for hosts that forbid io_uring.
// Reads that the page cache can answer are done at once, without a thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/disk/io_engine.h"
#include "base/fd.h"
#include "base/thread.h"

namespace trapeze {

class ThreadEngine final : public IoEngine {
 public:
  static Result<std::unique_ptr<IoEngine>> create(EventLoop& loop);
  ~ThreadEngine() override;

  const char* name() const override { return "threads"; }
  void submit(IoOp& op) override;
  void end_of_batch() override {}
  void drain() override;

 private:
  static constexpr size_t kThreads = 4;
  using Done = std::pair<IoOp*, int>;

  ThreadEngine(EventLoop& loop, Fd event) : loop_(loop), event_(std::move(event)) {}
  void work();
  void deliver();
  void on_event();

  EventLoop& loop_;
  Fd event_;
  uint64_t under_way_ = 0;  // loop thread
  std::vector<Done> delivering_;

  std::mutex mutex_;
  std::condition_variable has_work_;
  std::condition_variable has_done_;
  std::deque<IoOp*> queue_;      // guarded by mutex_
  std::vector<Done> done_;       // guarded by mutex_
  size_t idle_threads_ = 0;      // guarded by mutex_
  bool is_stopping_ = false;     // guarded by mutex_
  std::vector<Thread> threads_;  // loop thread; started when there is work for one more
};

}  // namespace trapeze
