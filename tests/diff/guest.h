// Guest: runs cases in the interpreter or the translator, as user code in 64-bit mode.
#pragma once

#include "accel/soft/testing/machine.h"
#include "diff/case.h"
#include "diff/forms.h"

namespace trapeze::diff {

enum class Executor : uint8_t { Interpreter, Translator };

class Guest {
 public:
  Guest(const Backgrounds& backgrounds, Executor executor);
  void run(const Case& test, Outcome& outcome);
  // Of the last case, where it was translated; as text.
  std::string emitted_code() const { return machine_.emitted_code(); }

 private:
  void map(uint64_t linear, uint64_t physical, uint64_t rights);

  const Backgrounds& backgrounds_;
  soft::TestMachine machine_;
};

}  // namespace trapeze::diff
