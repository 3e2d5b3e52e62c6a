// StallLimit: how much of its time a vCPU may lose to a device that works on the vCPU's thread.
//
// Such work is chosen because it is short, but the host may still make it wait: a page cache that
// is full, a disk behind a folder. A stall is work that took long and slept; one that only lost its
// CPU to others is none. Whoever has stalled leaves its work to the device's own thread for a
// hundred times as long. Whether the thread slept costs a system call, so it is only asked after
// work that took long, for a hundred times as long. So a vCPU waits for about 1 % of the time, at
// most 2 %.
//
// Threads: one at a time, begin() and end() of a piece of work on the same.
#pragma once

#include <cstdint>

namespace trapeze {

class StallLimit {
 public:
  // How often the calling thread has slept.
  using Sleeps = uint64_t (*)();
  explicit StallLimit(Sleeps sleeps = &sleeps_of_thread) : sleeps_(sleeps) {}

  // Times are of one monotonic clock. False: not now; then there is no end().
  bool begin(uint64_t now_ns);
  void end(uint64_t now_ns);

 private:
  static uint64_t sleeps_of_thread();

  const Sleeps sleeps_;
  uint64_t begin_ns_ = 0;
  uint64_t resume_ns_ = 0;
  uint64_t watch_until_ns_ = 0;
  bool is_watched_ = false;
  uint64_t sleeps_before_ = 0;
};

}  // namespace trapeze
