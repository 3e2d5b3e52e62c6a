#include "diff/runner.h"

#include <fmt/format.h>

namespace trapeze::diff {
Runner::Runner(const Backgrounds& backgrounds, Executor executor)
    : native_(backgrounds), guest_(backgrounds, executor), guest_outcomes_(Native::kBatch) {}

std::vector<std::string> Runner::run(std::span<const Program> programs) {
  cases_.clear();
  for (const Program& program : programs) cases_.push_back(assemble(program));
  native_.start(cases_);
  for (size_t i = 0; i < cases_.size(); ++i) guest_.run(cases_[i], guest_outcomes_[i]);
  const std::span<const Outcome> native = native_.finish();
  std::vector<size_t> differing;
  for (size_t i = 0; i < cases_.size(); ++i) {
    const Tolerance& tolerance = programs[i].tolerance;
    if (!compare(cases_[i], native[i], guest_outcomes_[i], tolerance).empty())
      differing.push_back(i);
  }
  std::vector<std::string> reports;
  for (const size_t i : differing) reports.push_back(report(programs[i]));
  return reports;
}

Differences Runner::run_one(const Program& program) {
  const Case test = assemble(program);
  native_.start(std::span(&test, 1));
  guest_.run(test, guest_outcomes_[0]);
  return compare(test, native_.finish()[0], guest_outcomes_[0], program.tolerance);
}

Program Runner::shrink(Program program) {
  for (size_t i = program.code.size(); i-- > 0;) {
    if (program.code.size() == 1) break;
    Program shorter = without(program, i);
    if (!run_one(shorter).empty()) program = std::move(shorter);
  }
  return program;
}

std::string Runner::report(const Program& program) {
  const Program small = shrink(program);
  const Differences differences = run_one(small);
  return fmt::format("{}differs:\n{}from:\n{}background {}\n{}", disassemble(small),
                     differences.empty() ? "  (not when run again)\n" : differences.text,
                     describe(small.start), small.background, guest_.emitted_code());
}

}  // namespace trapeze::diff
