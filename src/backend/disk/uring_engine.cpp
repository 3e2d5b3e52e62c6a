#include "backend/disk/uring_engine.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/fence.h"

namespace trapeze {
namespace {

constexpr unsigned kEntries = 128;
constexpr unsigned kCompletions = 1024;

}  // namespace

Result<std::unique_ptr<IoEngine>> UringEngine::create(EventLoop& loop) {
  std::unique_ptr<UringEngine> engine(new UringEngine(loop));
  TRY(engine->open());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

Result<void> UringEngine::open() {
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  params.cq_entries = kCompletions;
  const int set_up = ::io_uring_queue_init_params(kEntries, &ring_, &params);
  if (set_up < 0) {
    errno = -set_up;
    return fail_errno("io_uring is not available");
  }
  is_open_ = true;
  // Without it completions beyond the ring's size are lost.
  if ((params.features & IORING_FEAT_NODROP) == 0) return fail("io_uring: this kernel is too old");
  io_uring_probe* probe = ::io_uring_get_probe_ring(&ring_);
  bool has_all = probe != nullptr;
  for (const int op : {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE}) {
    has_all = has_all && ::io_uring_opcode_supported(probe, op) != 0;
  }
  ::io_uring_free_probe(probe);
  if (!has_all) return fail("io_uring: this kernel is too old");
  event_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_.is_open()) return fail_errno("cannot create an eventfd");
  const int registered = ::io_uring_register_eventfd(&ring_, event_.get());
  if (registered < 0) {
    errno = -registered;
    return fail_errno("io_uring: cannot register an eventfd");
  }
  // Edge-triggered: every completion is an event, and nobody needs to read the counter.
  return loop_.watch(event_.get(), EPOLLIN | EPOLLET, [this](uint32_t) { on_event(); });
}

UringEngine::~UringEngine() {
  if (event_.is_open()) {
    drain();
    loop_.unwatch(event_.get());
  }
  if (is_open_) ::io_uring_queue_exit(&ring_);
}

void UringEngine::submit(IoOp& op) {
  if (is_done_inline(op)) return owner_->io_done(op, run_blocking(op));
  if (in_ring_ == kCompletions) return waiting_.push_back(&op);
  ++in_ring_;
  queue(op);
}

void UringEngine::queue(IoOp& op) {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    submit_queued();
    entry = ::io_uring_get_sqe(&ring_);
  }
  switch (op.kind) {
    case IoOp::Kind::Read:
      ::io_uring_prep_readv(entry, op.fd, op.next_parts(), op.next_part_count(), op.offset);
      break;
    case IoOp::Kind::Write:
      ::io_uring_prep_writev(entry, op.fd, op.next_parts(), op.next_part_count(), op.offset);
      break;
    case IoOp::Kind::Sync:
      ::io_uring_prep_fsync(entry, op.fd, IORING_FSYNC_DATASYNC);
      break;
    case IoOp::Kind::PunchHole:
    case IoOp::Kind::ZeroRange:
      ::io_uring_prep_fallocate(entry, op.fd, fallocate_mode(op.kind),
                                static_cast<off_t>(op.offset), static_cast<off_t>(op.bytes));
      break;
  }
  ::io_uring_sqe_set_data(entry, &op);
  has_queued_ = true;
}

void UringEngine::submit_queued() {
  while (has_queued_) {
    const int submitted = ::io_uring_submit(&ring_);
    if (submitted >= 0) has_queued_ = ::io_uring_sq_ready(&ring_) != 0;
    if (submitted > 0 || submitted == -EINTR) continue;
    if (!has_queued_) return;
    ::usleep(1000);  // the kernel is short of memory (EAGAIN)
  }
}

void UringEngine::end_of_batch() {
  if (!has_queued_) return;
  // What completes at once needs no event.
  ::io_uring_cq_eventfd_toggle(&ring_, false);
  submit_queued();
  reap();
  ::io_uring_cq_eventfd_toggle(&ring_, true);
  // A completion that saw the event off is in the ring by now, or sees it on.
  full_fence();
  reap();
  if (has_queued_) submit_queued();
}

// Owners may submit from io_done(): the loop here then sees those, too.
void UringEngine::reap() {
  if (is_reaping_) return;
  is_reaping_ = true;
  io_uring_cqe* completion = nullptr;
  while (::io_uring_peek_cqe(&ring_, &completion) == 0) {
    IoOp& op = *static_cast<IoOp*>(::io_uring_cqe_get_data(completion));
    const int result = completion->res;
    ::io_uring_cqe_seen(&ring_, completion);
    const bool is_transfer = op.kind == IoOp::Kind::Read || op.kind == IoOp::Kind::Write;
    if (result == -EINTR || result == -EAGAIN) {
      queue(op);
      continue;
    }
    if (is_transfer && result > 0) {
      op.advance(static_cast<uint64_t>(result));
      if (op.bytes != 0) {
        queue(op);
        continue;
      }
    }
    int os_error = result < 0 ? -result : 0;
    if (is_transfer && result == 0) os_error = op.kind == IoOp::Kind::Read ? EIO : ENOSPC;
    if (waiting_.empty()) {
      --in_ring_;
    } else {
      queue(*waiting_.front());
      waiting_.pop_front();
    }
    owner_->io_done(op, os_error);
  }
  is_reaping_ = false;
}

void UringEngine::on_event() {
  reap();
  end_of_batch();  // what owners added, and the rest of short transfers
  owner_->io_done_end();
}

void UringEngine::drain() {
  while (in_ring_ > 0) {
    submit_queued();
    io_uring_cqe* completion = nullptr;
    ::io_uring_wait_cqe(&ring_, &completion);
    reap();
  }
}

}  // namespace trapeze
