// Counter: written by one thread (the device's), read by any. No locked instruction.
#pragma once

#include <atomic>
#include <cstdint>

namespace trapeze {

class Counter {
 public:
  void add(uint64_t amount = 1) { value_.store(get() + amount, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace trapeze
