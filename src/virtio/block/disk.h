// The two ends of one virtual disk. A back end implements Disk and answers to a DiskClient; this
// header is all that it knows of the device.
//
// Threads: all calls but try_now(), both ways, on the device's EventLoop thread (or while nothing
// runs the loop). Requests that are under way at the same time may be served in any order; each of
// them is valid, at its place, until disk_done().
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <vector>

namespace trapeze {

inline constexpr uint64_t kSectorBytes = 512;

struct DiskRequest {
  enum class Kind : uint8_t { Read, Write, Flush, Discard, WriteZeroes };

  Kind kind = Kind::Read;
  // Stable storage has it before disk_done() says so: for writes of a guest that never flushes.
  bool is_durable = false;
  bool may_unmap = false;  // WriteZeroes: the storage may be given back
  // Multiples of the sector size, within the disk. Flush: both 0.
  uint64_t offset = 0;
  uint64_t bytes = 0;
  // Read and Write: the guest's memory, `bytes` in all. The back end may change the list.
  std::vector<iovec> parts;
};

// The device.
class DiskClient {
 public:
  virtual ~DiskClient() = default;
  // Once for each request, also from inside submit(), end_of_batch() and drain(). `os_error` is 0
  // or an errno value; then any part of the request may have been done.
  virtual void disk_done(DiskRequest& request, int os_error) = 0;
  // After one or more disk_done() that came from none of those calls.
  virtual void disk_done_end() = 0;
};

struct DiskInfo {
  uint64_t size_bytes = 0;  // a multiple of the sector size, not 0; never changes
  bool is_read_only = false;
  bool can_discard = false;  // Discard; WriteZeroes is always possible
  // What is written in one piece without reading first; a power of two.
  uint32_t block_bytes = 4096;
  std::string name;  // for messages
};

class Disk {
 public:
  virtual ~Disk() = default;
  virtual const DiskInfo& info() const = 0;
  // The machine starts: what opening the disk made on the host is to stay.
  virtual void commit() {}
  // The device exists from now on; null: it is gone. Nothing is under way then.
  virtual void attach(DiskClient* client) = 0;
  // Runs a short request if that needs no waiting for storage: true, and disk_done() has been
  // called. False: nothing was done, submit() is to come. In the loop's turn on any thread.
  virtual bool try_now(DiskRequest& /*request*/) { return false; }
  // Begins a request. It may wait for end_of_batch().
  virtual void submit(DiskRequest& request) = 0;
  virtual void end_of_batch() = 0;
  // Waits until nothing is under way.
  virtual void drain() = 0;
};

}  // namespace trapeze
