#include "backend/disk/raw_disk.h"

#include <algorithm>
#include <utility>

#include "backend/disk/zeroes.h"

namespace trapeze {

RawDisk::RawDisk(ImageFile image, ImageAccess access, std::unique_ptr<IoEngine> engine)
    : image_(std::move(image)), engine_(std::move(engine)) {
  info_.size_bytes = image_.size_bytes;
  info_.is_read_only = access == ImageAccess::ReadOnly;
  info_.can_discard = access == ImageAccess::ReadWrite;
  info_.name = image_.path;
  engine_->set_owner(this);
}

RawDisk::~RawDisk() { engine_->drain(); }

RawDisk::Op& RawDisk::acquire(DiskRequest& request) {
  if (free_ops_.empty()) {
    ops_.push_back(std::make_unique<Op>());
    free_ops_.push_back(ops_.back().get());
  }
  Op& op = *free_ops_.back();
  free_ops_.pop_back();
  op.request = &request;
  op.fd = image_.fd.get();
  op.offset = request.offset;
  op.bytes = request.bytes;
  op.rewind();
  return op;
}

void RawDisk::finish(Op& op, int os_error) {
  free_ops_.push_back(&op);
  client_->disk_done(*op.request, os_error);
}

// HOT
bool RawDisk::try_now(DiskRequest& request) {
  const bool is_read = request.kind == DiskRequest::Kind::Read;
  if (!is_read && (request.kind != DiskRequest::Kind::Write || request.is_durable)) return false;
  const auto transfer = is_read ? read_now : write_now;
  if (!transfer(image_.fd.get(), request.parts, request.offset, request.bytes)) return false;
  client_->disk_done(request, 0);
  return true;
}

void RawDisk::submit(DiskRequest& request) {
  Op& op = acquire(request);
  switch (request.kind) {
    case DiskRequest::Kind::Read:
    case DiskRequest::Kind::Write:
      op.kind = request.kind == DiskRequest::Kind::Read ? IoOp::Kind::Read : IoOp::Kind::Write;
      op.parts.swap(request.parts);
      return engine_->submit(op);
    case DiskRequest::Kind::Flush:
      if (info_.is_read_only) return finish(op, 0);
      op.kind = IoOp::Kind::Sync;
      return engine_->submit(op);
    case DiskRequest::Kind::Discard:
      // A hint: what cannot be done is as good as done.
      if (!can_punch_) return finish(op, 0);
      op.kind = IoOp::Kind::PunchHole;
      return engine_->submit(op);
    case DiskRequest::Kind::WriteZeroes:
      return submit_zeroes(op);
  }
}

void RawDisk::submit_zeroes(Op& op) {
  const bool punches = op.request->may_unmap && can_punch_;
  if (punches || can_zero_) {
    op.kind = punches ? IoOp::Kind::PunchHole : IoOp::Kind::ZeroRange;
    return engine_->submit(op);
  }
  op.kind = IoOp::Kind::Write;
  op.bytes = 0;
  io_done(op, run_zeroes(*engine_, op.fd, op.request->offset, op.request->bytes));
}

void RawDisk::io_done(IoOp& io, int os_error) {
  Op& op = static_cast<Op&>(io);
  DiskRequest& request = *op.request;
  const bool is_range = op.kind == IoOp::Kind::PunchHole || op.kind == IoOp::Kind::ZeroRange;
  if (is_range && is_unsupported(os_error)) {
    (op.kind == IoOp::Kind::PunchHole ? can_punch_ : can_zero_) = false;
    if (request.kind == DiskRequest::Kind::Discard) return finish(op, 0);
    op.offset = request.offset;
    op.bytes = request.bytes;
    return submit_zeroes(op);
  }
  if (os_error == 0 && request.is_durable && op.kind != IoOp::Kind::Sync) {
    op.kind = IoOp::Kind::Sync;
    op.bytes = 0;
    return engine_->submit(op);
  }
  finish(op, os_error);
}

}  // namespace trapeze
