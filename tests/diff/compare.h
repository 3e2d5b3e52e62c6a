// Comparing what both sides made of a case, and reporting it.
#pragma once

#include <span>

#include "diff/program.h"

namespace trapeze::diff {

struct Differences {
  std::string text;  // one a line, native first; empty when there are none
  bool empty() const { return text.empty(); }
};

Differences compare(const Case& test, const Outcome& native, const Outcome& guest,
                    const Tolerance& tolerance);
// All registers of a start state.
std::string describe(const Registers& registers);

}  // namespace trapeze::diff
