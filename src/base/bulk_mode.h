// BulkMode: how eagerly a thread is run that moves bytes for a guest. One that mostly sleeps takes
// the CPU from whoever runs there as soon as it is woken: from the vCPU that has just told it of
// one frame. Where they share a CPU a stream is faster when the thread waits until the vCPU rests
// or has had its time slice (SCHED_BATCH, sched(7)), as then there are many; a round trip is
// slower. So it is for times in which many bytes move. With a CPU for each nothing changes.
//
// Threads: made anywhere, used by the thread whose scheduling it is.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cstdint>

namespace trapeze {

class BulkMode {
 public:
  static constexpr uint64_t kBulkBytes = 4096;

  // HOT. The thread has moved so many bytes in a turn of its own.
  void note_turn(uint64_t bytes) {
    if (bytes == 0) return;
    // Streams have short turns, too, of what is said in the other direction.
    score_ = bytes >= kBulkBytes ? std::min(score_ + kGain, kMost) : std::max(score_ - 1, 0);
    if (!is_on_ && score_ >= kEnough) set(true);
    if (is_on_ && score_ == 0) set(false);
  }
  bool is_on() const { return is_on_; }

 private:
  static constexpr int kGain = 4;
  static constexpr int kEnough = 32;
  static constexpr int kMost = 64;

  void set(bool is_on) {
    is_on_ = is_on;
    // Where it is forbidden all stays as it is.
    const sched_param none{};
    (void)::sched_setscheduler(0, is_on ? SCHED_BATCH : SCHED_OTHER, &none);
  }

  int score_ = 0;
  bool is_on_ = false;
};

}  // namespace trapeze
