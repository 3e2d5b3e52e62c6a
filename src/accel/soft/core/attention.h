// Attention: why the run loop must look up from running guest code.
//
// Bits are set by any thread and cleared by the vCPU's own. Translated code looks at `go_` instead,
// which is 0 whenever a bit is set: JRCXZ can test that without a taken branch in the usual case,
// and without touching the guest's flags.
//
// A setter sets a bit, then clears go_. The owner clears bits; when none is left it sets go_ and
// looks again: with both sides sequentially consistent, one of them sees the other. A setter that
// was held up may clear go_ late, when its bit is long gone; refresh() mends that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace trapeze::soft {

class Attention {
 public:
  // Any thread.
  void fetch_or(uint32_t bits, std::memory_order = std::memory_order_seq_cst) {
    bits_.fetch_or(bits, std::memory_order_seq_cst);
    go_.store(0, std::memory_order_seq_cst);
  }
  uint32_t load(std::memory_order order = std::memory_order_seq_cst) const { return bits_.load(order); }
  // The vCPU's own thread.
  void fetch_and(uint32_t bits, std::memory_order = std::memory_order_seq_cst) {
    if ((bits_.fetch_and(bits, std::memory_order_seq_cst) & bits) == 0) refresh();
  }
  void refresh() {
    go_.store(1, std::memory_order_seq_cst);
    if (bits_.load(std::memory_order_seq_cst) != 0) go_.store(0, std::memory_order_relaxed);
  }

  static constexpr size_t go_offset() { return offsetof(Attention, go_); }

 private:
  std::atomic<uint32_t> bits_{0};
  std::atomic<uint32_t> go_{1};
};

}  // namespace trapeze::soft
