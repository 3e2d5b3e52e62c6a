#include "backend/disk/thread_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event_fd.h"

namespace trapeze {

Result<std::unique_ptr<IoEngine>> ThreadEngine::create(EventLoop& loop) {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.is_open()) return fail_errno("cannot create an eventfd");
  std::unique_ptr<ThreadEngine> engine(new ThreadEngine(loop, std::move(event)));
  ThreadEngine* self = engine.get();
  TRY(loop.watch(self->event_.get(), EPOLLIN, [self](uint32_t) { self->on_event(); }));
  return std::unique_ptr<IoEngine>(std::move(engine));
}

ThreadEngine::~ThreadEngine() {
  drain();
  loop_.unwatch(event_.get());
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  has_work_.notify_all();
}

void ThreadEngine::submit(IoOp& op) {
  if (is_done_inline(op)) return owner_->io_done(op, run_blocking(op));
  if (op.kind == IoOp::Kind::Read && read_cached(op)) return owner_->io_done(op, 0);
  ++under_way_;
  bool needs_thread = false;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(&op);
    needs_thread = idle_threads_ < queue_.size() && threads_.size() < kThreads;
  }
  if (needs_thread) {
    threads_.emplace_back("disk-io", [this] { work(); });
  } else {
    has_work_.notify_one();
  }
}

void ThreadEngine::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_threads_;
    has_work_.wait(lock, [this] { return is_stopping_ || !queue_.empty(); });
    --idle_threads_;
    if (queue_.empty()) return;
    IoOp* op = queue_.front();
    queue_.pop_front();
    lock.unlock();
    const int os_error = run_blocking(*op);
    lock.lock();
    done_.emplace_back(op, os_error);
    has_done_.notify_one();
    signal_event(event_);
  }
}

void ThreadEngine::deliver() {
  std::vector<Done> batch = std::move(delivering_);
  {
    const std::lock_guard lock(mutex_);
    batch.swap(done_);
  }
  for (const auto& [op, os_error] : batch) {
    --under_way_;
    owner_->io_done(*op, os_error);
  }
  batch.clear();
  delivering_ = std::move(batch);  // keeps its storage
}

void ThreadEngine::on_event() {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event_.get(), &count, sizeof(count));
  deliver();
  owner_->io_done_end();
}

void ThreadEngine::drain() {
  while (under_way_ > 0) {
    {
      std::unique_lock lock(mutex_);
      has_done_.wait(lock, [this] { return !done_.empty(); });
    }
    deliver();
  }
}

}  // namespace trapeze
