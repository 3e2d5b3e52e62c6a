#include "backend/disk/overlay_disk.h"

#include <algorithm>
#include <array>
#include <utility>

#include "backend/disk/zeroes.h"
#include "base/log.h"

namespace trapeze {
namespace {

constexpr uint64_t kBlock = BlockMap::kBlockBytes;

// Moves the first `bytes` of `from`, of which `part` begins at `from[index]` + `skip`, to `to`.
class PartsSplitter {
 public:
  explicit PartsSplitter(std::span<const iovec> from) : from_(from) {}
  void take(uint64_t bytes, std::vector<iovec>& to) {
    to.clear();
    while (bytes > 0) {
      const iovec& part = from_[index_];
      const uint64_t step = std::min<uint64_t>(part.iov_len - skip_, bytes);
      to.push_back({static_cast<std::byte*>(part.iov_base) + skip_, step});
      bytes -= step;
      skip_ += step;
      if (skip_ == part.iov_len) {
        ++index_;
        skip_ = 0;
      }
    }
  }

 private:
  std::span<const iovec> from_;
  size_t index_ = 0;
  uint64_t skip_ = 0;
};

}  // namespace

OverlayDisk::OverlayDisk(ImageFile base, OverlayFile overlay, std::unique_ptr<IoEngine> engine)
    : base_(std::move(base)), overlay_(std::move(overlay)), engine_(std::move(engine)) {
  info_.size_bytes = base_.size_bytes;
  info_.can_discard = true;
  info_.block_bytes = kBlock;
  info_.name = base_.path;
  engine_->set_owner(this);
}

OverlayDisk::~OverlayDisk() {
  engine_->drain();
  if (!overlay_.is_kept() || !overlay_.map().is_dirty()) return;
  const auto pages = overlay_.take_map_changes();
  int os_error = transfer(IoOp::Kind::Sync, overlay_.fd(), 0, nullptr, 0);
  if (os_error == 0) os_error = overlay_.write_map(*engine_, pages);
  if (os_error == 0) os_error = transfer(IoOp::Kind::Sync, overlay_.fd(), 0, nullptr, 0);
  if (os_error != 0) {
    log(LogLevel::Warning,
        "{}: the overlay could not be brought up to date: {}; it has the disk as "
        "of the guest's last flush",
        base_.path, errno_text(os_error));
  }
}

OverlayDisk::Op& OverlayDisk::acquire_op() {
  if (free_ops_.empty()) {
    ops_.push_back(std::make_unique<Op>());
    free_ops_.push_back(ops_.back().get());
  }
  Op& op = *free_ops_.back();
  free_ops_.pop_back();
  op.rewind();
  return op;
}

OverlayDisk::Task& OverlayDisk::acquire_task() {
  if (free_tasks_.empty()) {
    tasks_.push_back(std::make_unique<Task>());
    free_tasks_.push_back(tasks_.back().get());
  }
  Task& task = *free_tasks_.back();
  free_tasks_.pop_back();
  return task;
}

// HOT. Reads that lie in one of the files, and writes of whole blocks.
bool OverlayDisk::try_now(DiskRequest& request) {
  if (request.bytes == 0) return false;
  const uint64_t block = request.offset / kBlock;
  const uint64_t count = (request.offset + request.bytes - 1) / kBlock - block + 1;
  const uint64_t in_overlay = overlay_.data_offset() + request.offset;
  if (request.kind == DiskRequest::Kind::Read) {
    if (overlay_.map().run_length(block, count) < count) return false;
    const bool is_in_overlay = overlay_.map().has(block);
    const int fd = is_in_overlay ? overlay_.fd() : base_.fd.get();
    const uint64_t at = is_in_overlay ? in_overlay : request.offset;
    if (!read_now(fd, request.parts, at, request.bytes)) return false;
  } else {
    const bool is_whole = request.offset % kBlock == 0 && request.bytes % kBlock == 0;
    if (request.kind != DiskRequest::Kind::Write || request.is_durable || !is_whole) return false;
    if (!write_now(overlay_.fd(), request.parts, in_overlay, request.bytes)) return false;
    overlay_.map().set(block, count);
  }
  client_->disk_done(request, 0);
  return true;
}

void OverlayDisk::submit(DiskRequest& request) {
  if (request.kind == DiskRequest::Kind::Read) return read(request);
  if (request.kind != DiskRequest::Kind::Flush) {
    const int os_error = change(request);
    if (os_error != 0 || !request.is_durable) return client_->disk_done(request, os_error);
  }
  if (!overlay_.is_kept()) return client_->disk_done(request, 0);
  waiting_flushes_.push_back(&request);
  if (flush_stage_ == FlushStage::Idle) begin_flush();
}

// Reads -------------------------------------------------------------------------------------------

void OverlayDisk::read(DiskRequest& request) {
  Task& task = acquire_task();
  task.request = &request;
  task.pending = 1;  // this function
  task.os_error = 0;
  PartsSplitter splitter(request.parts);
  const uint64_t end = request.offset + request.bytes;
  for (uint64_t at = request.offset; at < end;) {
    const uint64_t block = at / kBlock;
    const uint64_t last = (end - 1) / kBlock;
    const uint64_t run_end = (block + overlay_.map().run_length(block, last - block + 1)) * kBlock;
    const bool is_in_overlay = overlay_.map().has(block);
    Op& op = acquire_op();
    op.kind = IoOp::Kind::Read;
    op.task = &task;
    op.fd = is_in_overlay ? overlay_.fd() : base_.fd.get();
    op.offset = is_in_overlay ? overlay_.data_offset() + at : at;
    op.bytes = std::min(run_end, end) - at;
    splitter.take(op.bytes, op.parts);
    at += op.bytes;
    ++task.pending;
    engine_->submit(op);
  }
  piece_done(task, 0);
}

void OverlayDisk::piece_done(Task& task, int os_error) {
  if (os_error != 0) task.os_error = os_error;
  if (--task.pending != 0) return;
  free_tasks_.push_back(&task);
  client_->disk_done(*task.request, task.os_error);
}

void OverlayDisk::io_done(IoOp& io, int os_error) {
  Op& op = static_cast<Op&>(io);
  if (op.task == nullptr) return flush_step_done(os_error);
  free_ops_.push_back(&op);
  piece_done(*op.task, os_error);
}

// Changes -----------------------------------------------------------------------------------------

int OverlayDisk::change(DiskRequest& request) {
  switch (request.kind) {
    case DiskRequest::Kind::Write:
      return write(request);
    case DiskRequest::Kind::WriteZeroes:
      return write_zeroes(request.offset, request.bytes);
    case DiskRequest::Kind::Discard:
      discard(request.offset, request.bytes);
      return 0;
    case DiskRequest::Kind::Read:
    case DiskRequest::Kind::Flush:
      break;
  }
  return 0;
}

int OverlayDisk::transfer(IoOp::Kind kind, int fd, uint64_t offset, std::byte* bytes,
                          uint64_t count) {
  IoOp op;
  op.kind = kind;
  op.fd = fd;
  op.offset = offset;
  op.bytes = count;
  if (bytes != nullptr) op.parts.push_back({bytes, count});
  return engine_->run(op);
}

int OverlayDisk::copy_up(uint64_t block) {
  if (overlay_.map().has(block)) return 0;
  std::array<std::byte, kBlock> bytes{};
  const uint64_t at = block * kBlock;
  const uint64_t count = std::min(kBlock, info_.size_bytes - at);
  int os_error = transfer(IoOp::Kind::Read, base_.fd.get(), at, bytes.data(), count);
  if (os_error == 0) {
    os_error = transfer(IoOp::Kind::Write, overlay_.fd(), overlay_.data_offset() + at, bytes.data(),
                        count);
  }
  if (os_error == 0) overlay_.map().set(block, 1);
  return os_error;
}

// The blocks that [offset, offset + bytes) covers in part only.
int OverlayDisk::copy_edges(uint64_t offset, uint64_t bytes) {
  const uint64_t end = offset + bytes;
  if (offset % kBlock != 0) {
    if (const int os_error = copy_up(offset / kBlock); os_error != 0) return os_error;
  }
  return end % kBlock != 0 && end != info_.size_bytes ? copy_up(end / kBlock) : 0;
}

int OverlayDisk::write(DiskRequest& request) {
  if (const int os_error = copy_edges(request.offset, request.bytes); os_error != 0) {
    return os_error;
  }
  IoOp op;
  op.kind = IoOp::Kind::Write;
  op.fd = overlay_.fd();
  op.offset = overlay_.data_offset() + request.offset;
  op.bytes = request.bytes;
  op.parts.swap(request.parts);
  const int os_error = engine_->run(op);
  op.parts.swap(request.parts);
  if (os_error != 0) return os_error;
  const uint64_t first = request.offset / kBlock;
  const uint64_t end = (request.offset + request.bytes + kBlock - 1) / kBlock;
  overlay_.map().set(first, end - first);
  return 0;
}

// Within the overlay's file; zeros afterwards.
int OverlayDisk::punch(uint64_t offset, uint64_t bytes) {
  const uint64_t at = overlay_.data_offset() + offset;
  const int os_error = transfer(IoOp::Kind::PunchHole, overlay_.fd(), at, nullptr, bytes);
  return is_unsupported(os_error) ? run_zeroes(*engine_, overlay_.fd(), at, bytes) : os_error;
}

// Less than a block, in one block.
int OverlayDisk::zero_part(uint64_t offset, uint64_t bytes) {
  if (bytes == 0) return 0;
  if (const int os_error = copy_up(offset / kBlock); os_error != 0) return os_error;
  return run_zeroes(*engine_, overlay_.fd(), overlay_.data_offset() + offset, bytes);
}

int OverlayDisk::write_zeroes(uint64_t offset, uint64_t bytes) {
  const uint64_t end = offset + bytes;
  const uint64_t whole_from = align_up(offset, kBlock);
  const uint64_t whole_to = end == info_.size_bytes ? end : align_down(end, kBlock);
  if (whole_from >= whole_to) {
    // Parts of one block, or of two neighbours.
    const uint64_t middle = std::min(std::max(whole_from, offset), end);
    const int os_error = zero_part(offset, middle - offset);
    return os_error != 0 ? os_error : zero_part(middle, end - middle);
  }
  int os_error = zero_part(offset, whole_from - offset);
  if (os_error == 0) os_error = zero_part(whole_to, end - whole_to);
  if (os_error == 0) os_error = punch(whole_from, whole_to - whole_from);
  if (os_error != 0) return os_error;
  const uint64_t first = whole_from / kBlock;
  overlay_.map().set(first, (whole_to + kBlock - 1) / kBlock - first);
  return 0;
}

// Gives back what the overlay holds; blocks of the base stay as they are. Only a hint: errors do
// not matter.
void OverlayDisk::discard(uint64_t offset, uint64_t bytes) {
  uint64_t block = (offset + kBlock - 1) / kBlock;
  const uint64_t end = (offset + bytes) / kBlock;
  while (block < end) {
    const uint64_t count = overlay_.map().run_length(block, end - block);
    if (overlay_.map().has(block)) {
      (void)transfer(IoOp::Kind::PunchHole, overlay_.fd(), overlay_.data_offset() + block * kBlock,
                     nullptr, count * kBlock);
    }
    block += count;
  }
}

// Flush -------------------------------------------------------------------------------------------

void OverlayDisk::begin_flush() {
  flushing_.swap(waiting_flushes_);
  flush_pages_ = overlay_.take_map_changes();
  flush_stage_ = FlushStage::Data;
  flush_op_.kind = IoOp::Kind::Sync;
  flush_op_.fd = overlay_.fd();
  engine_->submit(flush_op_);
}

void OverlayDisk::flush_step_done(int os_error) {
  if (os_error == 0 && flush_stage_ == FlushStage::Data && !flush_pages_.empty()) {
    os_error = overlay_.write_map(*engine_, flush_pages_);
    if (os_error == 0) {
      flush_stage_ = FlushStage::Map;
      return engine_->submit(flush_op_);
    }
  }
  if (os_error != 0) {
    for (const auto& page : flush_pages_) overlay_.map().mark_dirty(page.index);
  }
  flush_pages_.clear();
  flush_stage_ = FlushStage::Idle;
  const std::vector<DiskRequest*> done = std::exchange(flushing_, {});
  if (!waiting_flushes_.empty()) begin_flush();
  for (DiskRequest* request : done) client_->disk_done(*request, os_error);
}

}  // namespace trapeze
