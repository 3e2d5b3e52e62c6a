// Integer, scalar and x87 floating-point work in registers, and calls.
#include "bench/row.h"

namespace bench {
namespace {

// --- integer ALU: four chains that do not wait for each other, so that a CPU can do several
// instructions at once; shifts, rotates, products, conditions, 32 and 64 bits ---
constexpr uint64_t kAluIterations = 100'000;

uint64_t alu_unit() {
  uint64_t a = 0x243f6a8885a308d3;
  uint64_t b = 0x13198a2e03707344;
  uint64_t c = 0xa4093822299f31d0;
  uint32_t d = 0x082efa98;
  uint64_t less = 0;
  for (uint64_t i = 0; i < kAluIterations; ++i) {
    a ^= a << 13;
    a ^= a >> 7;
    b = b * 9 + 0x9e3779b9;
    c = (c << 11 | c >> 53) - (i | 1);
    d = (d & 0xfffff00fU) + (static_cast<uint32_t>(i) ^ d >> 5);
    less += a < c ? 1 : 0;
    if ((i & 15) == 3) b ^= i * 77;
  }
  return mix(mix(mix(mix(a, b), c), d), less);
}

// --- direct calls: recursion, with its stack accesses and returns to two places ---
constexpr uint32_t kFibonacci = 22;
constexpr uint64_t kFibonacciCalls = 57'313;  // 2 * fib(23) - 1

[[gnu::noinline]] uint64_t fibonacci(uint64_t n) {
  // Keeps compilers from unrolling the recursion into loops and inlined levels.
  asm volatile("" : "+r"(n));
  if (n < 2) return n;
  const uint64_t one = fibonacci(n - 1);
  asm volatile("");
  return one + fibonacci(n - 2);
}

uint64_t direct_unit() { return mix(1, fibonacci(kFibonacci)); }

// --- indirect calls: one call place, eight functions in a repeating order of eleven ---
using Step = uint64_t (*)(uint64_t);

template <uint64_t key>
[[gnu::noinline]] uint64_t step(uint64_t value) {
  return (value ^ key) + (value >> 7);
}

constexpr size_t kStepOrder = 11;
Step volatile steps[kStepOrder] = {step<1>, step<2>, step<3>, step<1>, step<4>, step<5>,
                                   step<6>, step<2>, step<7>, step<8>, step<3>};
constexpr uint64_t kIndirectRounds = 5'000;

uint64_t indirect_unit() {
  uint64_t value = 12345;
  for (uint64_t round = 0; round < kIndirectRounds; ++round) {
    for (size_t i = 0; i < kStepOrder; ++i) value = steps[i](value);
  }
  return mix(1, value);
}

// --- scalar floating point: multiply, add, divide, compare, convert ---
constexpr uint64_t kScalarIterations = 50'000;

uint64_t scalar_unit() {
  double x = 0.3141592653589793;
  double sum = 0;
  float single = 1.5F;
  int64_t rounded = 0;
  for (uint64_t i = 0; i < kScalarIterations; ++i) {
    x = 3.75 * x * (1.0 - x);
    sum += x / (1.0 + static_cast<double>(static_cast<int64_t>(i)));
    if (x > 0.5) sum -= 0.001953125;
    rounded += static_cast<int64_t>(x * 1024.0);
    single = single * 0.999F + static_cast<float>(x);
  }
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &sum, sizeof(bits));
  return mix(mix(bits, static_cast<uint64_t>(rounded)),
             static_cast<uint64_t>(static_cast<double>(single) * 1e6));
}

// --- the same on the x87 unit, in extended precision ---
constexpr uint64_t kX87Iterations = 20'000;

uint64_t x87_unit() {
  long double x = 0.3141592653589793L;
  long double sum = 0;
  int64_t rounded = 0;
  for (uint64_t i = 0; i < kX87Iterations; ++i) {
    x = 3.75L * x * (1.0L - x);
    sum += x / (1.0L + static_cast<long double>(static_cast<int64_t>(i)));
    if (x > 0.5L) sum -= 0.001953125L;
    rounded += static_cast<int64_t>(x * 1024.0L);
  }
  const auto low = static_cast<double>(sum);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &low, sizeof(bits));
  return mix(bits, static_cast<uint64_t>(rounded));
}

constexpr Row kRows[] = {
    {"alu", kAluIterations, prepare_nothing, repeat<alu_unit>, finish_nothing},
    {"calls", kFibonacciCalls, prepare_nothing, repeat<direct_unit>, finish_nothing},
    {"indirect", kIndirectRounds* kStepOrder, prepare_nothing, repeat<indirect_unit>,
     finish_nothing},
    {"scalar-fp", kScalarIterations, prepare_nothing, repeat<scalar_unit>, finish_nothing},
    {"x87", kX87Iterations, prepare_nothing, repeat<x87_unit>, finish_nothing},
};

}  // namespace

Rows compute_rows() { return {kRows, sizeof(kRows) / sizeof(kRows[0])}; }

}  // namespace bench
