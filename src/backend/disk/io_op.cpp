#include "backend/disk/io_op.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace trapeze {

void IoOp::advance(uint64_t count) {
  offset += count;
  bytes -= count;
  while (count > 0) {
    iovec& part = parts[first_part_];
    if (count < part.iov_len) {
      part.iov_base = static_cast<char*>(part.iov_base) + count;
      part.iov_len -= count;
      return;
    }
    count -= part.iov_len;
    ++first_part_;
  }
}

int fallocate_mode(IoOp::Kind kind) {
  return FALLOC_FL_KEEP_SIZE |
         (kind == IoOp::Kind::PunchHole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

bool is_unsupported(int os_error) {
  return os_error == EOPNOTSUPP || os_error == ENOSYS || os_error == EINVAL || os_error == ENODEV;
}

namespace {

int transfer(IoOp& op) {
  const auto offset = static_cast<off_t>(op.offset);
  const auto count = static_cast<int>(op.next_part_count());
  const ssize_t done = op.kind == IoOp::Kind::Read
                           ? ::preadv(op.fd, op.next_parts(), count, offset)
                           : ::pwritev(op.fd, op.next_parts(), count, offset);
  if (done < 0) return errno;
  // The file became shorter; or a device that is full.
  if (done == 0) return op.kind == IoOp::Kind::Read ? EIO : ENOSPC;
  op.advance(static_cast<uint64_t>(done));
  return 0;
}

int run_once(IoOp& op) {
  switch (op.kind) {
    case IoOp::Kind::Read:
    case IoOp::Kind::Write:
      return transfer(op);
    case IoOp::Kind::Sync:
      return ::fdatasync(op.fd) == 0 ? 0 : errno;
    case IoOp::Kind::PunchHole:
    case IoOp::Kind::ZeroRange:
      if (::fallocate(op.fd, fallocate_mode(op.kind), static_cast<off_t>(op.offset),
                      static_cast<off_t>(op.bytes)) != 0) {
        return errno;
      }
      op.bytes = 0;
      return 0;
  }
  return EINVAL;
}

}  // namespace

int run_blocking(IoOp& op) {
  for (;;) {
    const int error = run_once(op);
    if (error == EINTR) continue;
    if (error != 0 || op.bytes == 0) return error;
  }
}

bool read_cached(IoOp& op) {
  const ssize_t done = ::preadv2(op.fd, op.next_parts(), static_cast<int>(op.next_part_count()),
                                 static_cast<off_t>(op.offset), RWF_NOWAIT);
  if (done <= 0) return false;
  op.advance(static_cast<uint64_t>(done));
  return op.bytes == 0;
}

bool read_now(int fd, std::span<const iovec> parts, uint64_t offset, uint64_t bytes) {
  const ssize_t done = ::preadv2(fd, parts.data(), static_cast<int>(parts.size()),
                                 static_cast<off_t>(offset), RWF_NOWAIT);
  return done >= 0 && static_cast<uint64_t>(done) == bytes;
}

// Without RWF_NOWAIT, which few file systems have for writes to the page cache: a host that
// throttles its writers makes this wait.
bool write_now(int fd, std::span<const iovec> parts, uint64_t offset, uint64_t bytes) {
  const ssize_t done =
      ::pwritev(fd, parts.data(), static_cast<int>(parts.size()), static_cast<off_t>(offset));
  return done >= 0 && static_cast<uint64_t>(done) == bytes;
}

}  // namespace trapeze
