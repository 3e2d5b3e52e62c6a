// The rows of the benchmark. A row repeats a unit of work that gives the same result every time and
// on every machine: so a slow machine can do fewer units and still prove that it computes right.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bench {

// No result: a system call failed, or units gave different ones.
constexpr uint64_t kFailed = 0;

struct Row {
  const char* name;
  uint64_t operations;              // what a unit counts as
  bool (*prepare)();                // not measured
  uint64_t (*run)(uint64_t units);  // gives the checksum of a unit, or kFailed
  void (*finish)();                 // gives back what prepare took
};

struct Rows {
  const Row* first;
  size_t count;
};

Rows compute_rows();
Rows memory_rows();
Rows vector_rows();
Rows library_rows();
Rows kernel_rows();
Rows thread_rows();

// For rows whose unit is a plain function. The compiler must not know which: it would see that
// every call gives the same, and make one.
template <uint64_t (*unit)()>
uint64_t repeat(uint64_t units) {
  uint64_t (*function)() = unit;
  asm volatile("" : "+r"(function));
  const uint64_t first = function();
  for (uint64_t i = 1; i < units; ++i) {
    asm volatile("" : "+r"(function));
    if (function() != first) return kFailed;
  }
  return first;
}

inline bool prepare_nothing() { return true; }
inline void finish_nothing() {}

inline uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ hash >> 32;
}

// Numbers without pattern, the same on every run.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return state_ >> 33;
  }

 private:
  uint64_t state_;
};

}  // namespace bench
