// Runner: runs programs on both sides, a batch at a time, and shrinks those that differ.
#pragma once

#include <string>
#include <vector>

#include "diff/compare.h"
#include "diff/guest.h"
#include "diff/native.h"

namespace trapeze::diff {

class Runner {
 public:
  Runner(const Backgrounds& backgrounds, Executor executor);

  // At most Native::kBatch programs. Returns a report of each that differs, shrunk.
  std::vector<std::string> run(std::span<const Program> programs);

 private:
  Differences run_one(const Program& program);
  Program shrink(Program program);
  std::string report(const Program& program);

  Native native_;
  Guest guest_;
  std::vector<Case> cases_;
  std::vector<Outcome> guest_outcomes_;
};

}  // namespace trapeze::diff
