// IoOp: one operation on a file of the host, and how to run it on the calling thread.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

namespace trapeze {

struct IoOp {
  enum class Kind : uint8_t {
    Read,       // fills all of `bytes`, or fails
    Write,      // all of `bytes`, or fails
    Sync,       // what was written before is on stable storage, with all that it needs to be read
    PunchHole,  // reads as zeros, gives the storage back
    ZeroRange,  // reads as zeros, keeps the storage
  };

  Kind kind = Kind::Read;
  int fd = -1;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::vector<iovec> parts;  // Read and Write: `bytes` in all; used up on the way

  // Takes note of `count` bytes that were transferred.
  void advance(uint64_t count);
  const iovec* next_parts() const { return parts.data() + first_part_; }
  unsigned next_part_count() const { return static_cast<unsigned>(parts.size() - first_part_); }
  void rewind() { first_part_ = 0; }

 private:
  size_t first_part_ = 0;
};

// The mode of fallocate() for PunchHole and ZeroRange.
int fallocate_mode(IoOp::Kind kind);

// Runs it; may block. 0 or an errno value. What ends before `bytes` were read gives EIO.
int run_blocking(IoOp& op);

// A Read whose bytes are all in the host's page cache is done at once: true. Otherwise some may
// have been read, and `op` is left with the rest.
bool read_cached(IoOp& op);

// For what is done on a thread that should not wait: the whole transfer or nothing, from or to the
// host's page cache. False: not done, or not all of it, for whatever reason.
bool read_now(int fd, std::span<const iovec> parts, uint64_t offset, uint64_t bytes);
bool write_now(int fd, std::span<const iovec> parts, uint64_t offset, uint64_t bytes);

// True for the errors by which file systems say that they cannot punch holes or zero ranges.
bool is_unsupported(int os_error);

}  // namespace trapeze
