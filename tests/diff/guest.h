// Guest: runs cases in the interpreter, as user code in 64-bit mode.
#pragma once

#include "accel/soft/testing/machine.h"
#include "diff/case.h"

namespace trapeze::diff {

class Guest {
 public:
  explicit Guest(const Backgrounds& backgrounds);
  void run(const Case& test, Outcome& outcome);

 private:
  void map(uint64_t linear, uint64_t physical, uint64_t rights);

  const Backgrounds& backgrounds_;
  soft::TestMachine machine_;
};

}  // namespace trapeze::diff
