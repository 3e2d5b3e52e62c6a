// Random values that instructions find interesting.
#pragma once

#include <random>

#include "diff/case.h"

namespace trapeze::diff {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  uint64_t below(uint64_t limit) { return engine_() % limit; }
  bool percent(unsigned chance) { return below(100) < chance; }

 private:
  std::mt19937_64 engine_;
};

uint64_t random_integer(Random& random);
// Flags with IF set; TF, NT and AC clear.
uint64_t random_flags(Random& random);
// x87, MMX and SSE registers. Exceptions are mostly masked.
void random_fx(Random& random, std::array<uint8_t, kFxBytes>& fx);
void random_ymm_high(Random& random, std::array<uint8_t, kYmmBytes>& ymm_high);
// Integers, floats, doubles, extended doubles; never an address of the code page.
Backgrounds random_backgrounds(Random& random);

}  // namespace trapeze::diff
