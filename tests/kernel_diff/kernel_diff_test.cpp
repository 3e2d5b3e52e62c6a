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

  // `tries`: interrupts come at other points each time.
  std::string difference_with_interrupts(const Program& program, unsigned tries) {
    const Image image = assemble(program);
    interpreter_.run(program, image, Kernel::Interrupts::Off, expected_);
    if (expected_.result == soft::RunResult::Limit) return {};
    std::string text;
    for (unsigned i = 0; i < tries && text.empty(); ++i) {
      translator_.run(program, image, Kernel::Interrupts::On, outcome_);
      interrupts_ += outcome_.interrupts;
      text = compare(expected_, outcome_);
    }
    return text;
  }

  // `differs`: of a program.
  template <typename Differs>
  static Program shrink(Program program, const Differs& differs) {
    for (size_t size = program.items.size() / 2; size >= 1; size /= 2) {
      for (size_t i = 0; i + size <= program.items.size();) {
        Program shorter = program;
        const auto at = shorter.items.begin() + static_cast<ptrdiff_t>(i);
        shorter.items.erase(at, at + static_cast<ptrdiff_t>(size));
        if (differs(shorter)) {
          program = std::move(shorter);
        } else {
          i += size;
        }
      }
    }
    return program;
  }

  // Of what ran last.
  std::string report(const Program& program, const std::string& differences) {
    return describe(program) + disassemble(assemble(program)) +
           "differs (interpreter, translator):\n" + differences +
           "exceptions in the interpreter:\n" + describe_log(expected_) + "in the translator:\n" +
           describe_log(outcome_) + "emitted code:\n" + translator_.emitted_code();
  }

  const uint64_t seed_ = from_environment("TRAPEZE_DIFF_SEED", kDefaultSeed);
  const uint64_t factor_ = from_environment("TRAPEZE_DIFF_CASES", 1);
  Kernel interpreter_{Executor::Interpreter}, translator_{Executor::Translator};
  Outcome expected_, outcome_;
  uint64_t interrupts_ = 0;
};

TEST_F(KernelDiff, random_kernels_end_alike) {
  unsigned failures = 0, halted = 0;
  uint32_t vectors = 0;
  const uint64_t cases = 1000 * factor_;
  for (uint64_t i = 0; i < cases && failures < kMaxReports; ++i) {
    const Program program = random_program(seed_ + i);
    const bool same = difference(program).empty();
    halted += expected_.result == soft::RunResult::Halted ? 1 : 0;
    vectors |= vectors_of(expected_);
    if (same) continue;
    ++failures;
    const Program small =
        shrink(program, [this](const Program& shorter) { return !difference(shorter).empty(); });
    const std::string differences = difference(small);
    ADD_FAILURE() << report(small, differences);
  }
  EXPECT_GT(halted, cases * 9 / 10) << "most kernels must come to their end";
  // #DE, #DB, #BP, #UD, #NM, #GP, #PF
  for (const unsigned vector : {0U, 1U, 3U, 6U, 7U, 13U, 14U}) {
    EXPECT_TRUE((vectors >> vector & 1) != 0) << "no exception " << vector;
  }
}

TEST_F(KernelDiff, interrupts_at_random_points_change_nothing) {
  constexpr unsigned kTries = 10;  // a failure that needs its moment shrinks less far
  unsigned failures = 0;
  for (uint64_t i = 0; i < 150 * factor_ && failures < kMaxReports; ++i) {
    const Program program = random_program(seed_ + i);
    if (difference_with_interrupts(program, 1).empty()) continue;
    ++failures;
    const Program small = shrink(program, [this](const Program& shorter) {
      return !difference_with_interrupts(shorter, kTries).empty();
    });
    const std::string differences = difference_with_interrupts(small, kTries * 10);
    ADD_FAILURE() << report(small, differences);
  }
  EXPECT_GT(interrupts_, 0U);
}

}  // namespace
}  // namespace trapeze::kernel_diff
