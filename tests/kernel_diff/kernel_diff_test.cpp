// Random kernels in both executors: the same state, memory and exceptions. TRAPEZE_DIFF_SEED takes
// other random values; TRAPEZE_DIFF_CASES multiplies the number of cases.
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernel_diff/kernel.h"

namespace trapeze::kernel_diff {
namespace {

constexpr uint64_t kDefaultSeed = 20260101;
constexpr unsigned kMaxReports = 5;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

class KernelDiff : public testing::Test {
 protected:
  std::string difference(const Program& program) {
    const Image image = assemble(program);
    interpreter_.run(program, image, Kernel::Interrupts::None, expected_);
    if (expected_.result == soft::RunResult::Limit) return {};  // lost in an endless loop
    translator_.run(program, image, Kernel::Interrupts::None, outcome_);
    std::string text = compare(expected_, outcome_);
    // Again, through what is translated by now.
    if (text.empty()) {
      translator_.run(program, image, Kernel::Interrupts::None, outcome_);
      text = compare(expected_, outcome_);
    }
    return text;
  }

  Program shrink(Program program) {
    for (size_t size = program.items.size() / 2; size >= 1; size /= 2) {
      for (size_t i = 0; i + size <= program.items.size();) {
        Program shorter = program;
        const auto at = shorter.items.begin() + static_cast<ptrdiff_t>(i);
        shorter.items.erase(at, at + static_cast<ptrdiff_t>(size));
        if (difference(shorter).empty()) {
          i += size;
        } else {
          program = std::move(shorter);
        }
      }
    }
    return program;
  }

  std::string report(const Program& program) {
    const Program small = shrink(program);
    const std::string text = difference(small);
    return "seed " + std::to_string(program.seed) + (small.smap ? ", SMAP\n" : "\n") +
           disassemble(assemble(small)) + "differs (interpreter, translator):\n" + text +
           "exceptions in the interpreter:\n" + describe_log(expected_) + "in the translator:\n" +
           describe_log(outcome_);
  }

  const uint64_t seed_ = from_environment("TRAPEZE_DIFF_SEED", kDefaultSeed);
  const uint64_t factor_ = from_environment("TRAPEZE_DIFF_CASES", 1);
  Kernel interpreter_{Executor::Interpreter}, translator_{Executor::Translator};
  Outcome expected_, outcome_;
};

TEST_F(KernelDiff, random_kernels_end_alike) {
  unsigned failures = 0, halted = 0;
  const uint64_t cases = 1000 * factor_;
  for (uint64_t i = 0; i < cases && failures < kMaxReports; ++i) {
    const Program program = random_program(seed_ + i);
    const bool same = difference(program).empty();
    halted += expected_.result == soft::RunResult::Halted ? 1 : 0;
    if (same) continue;
    ++failures;
    ADD_FAILURE() << report(program);
  }
  EXPECT_GT(halted, cases * 9 / 10) << "most kernels must come to their end";
}

TEST_F(KernelDiff, interrupts_at_random_points_change_nothing) {
  unsigned failures = 0;
  uint64_t interrupts = 0;
  for (uint64_t i = 0; i < 150 * factor_ && failures < kMaxReports; ++i) {
    const Program program = random_program(seed_ + i);
    const Image image = assemble(program);
    interpreter_.run(program, image, Kernel::Interrupts::Off, expected_);
    if (expected_.result == soft::RunResult::Limit) continue;
    translator_.run(program, image, Kernel::Interrupts::On, outcome_);
    interrupts += outcome_.interrupts;
    const std::string text = compare(expected_, outcome_);
    if (text.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << program.seed << ", " << outcome_.interrupts << " interrupts\n"
                  << disassemble(image) << text << "exceptions without interrupts:\n"
                  << describe_log(expected_) << "with:\n"
                  << describe_log(outcome_);
  }
  EXPECT_GT(interrupts, 0U);
}

}  // namespace
}  // namespace trapeze::kernel_diff
