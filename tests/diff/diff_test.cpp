// Both executors against the host CPU. TRAPEZE_DIFF_SEED takes other random values;
// TRAPEZE_DIFF_CASES multiplies the number of cases: a long run is just a bigger number.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "diff/generator.h"
#include "diff/runner.h"

namespace trapeze::diff {
namespace {

constexpr uint64_t kDefaultSeed = 20260101;
constexpr size_t kMaxReports = 40;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

class Diff : public testing::TestWithParam<Executor> {
 protected:
  Diff()
      : seed_(from_environment("TRAPEZE_DIFF_SEED", kDefaultSeed)),
        factor_(from_environment("TRAPEZE_DIFF_CASES", 1)),
        random_(seed_),
        backgrounds_(random_backgrounds(random_)),
        generator_(forms_, backgrounds_, random_.bits()),
        runner_(backgrounds_, GetParam()) {}

  void add(Program program) {
    programs_.push_back(std::move(program));
    if (programs_.size() == Native::kBatch) flush();
  }

  void flush() {
    for (const std::string& report : runner_.run(programs_)) {
      if (++failures_ <= kMaxReports) ADD_FAILURE() << "seed " << seed_ << "\n" << report;
    }
    cases_ += programs_.size();
    programs_.clear();
  }

  void finish() {
    flush();
    EXPECT_EQ(failures_, 0U) << "of " << cases_ << " cases";
    RecordProperty("cases", std::to_string(cases_));
    EXPECT_GT(cases_, 0U);
  }

  void run_group(Group group, unsigned cases_each) {
    for (const Form& form : forms_.all()) {
      if (form.group != group) continue;
      for (uint64_t i = 0; i < cases_each * factor_; ++i) add(generator_.single(form));
    }
    finish();
  }

  void run_group_of_level3(Group group, unsigned cases_each) {
    if (std::string_view(compared_model()) != "x86-64-v3") {
      GTEST_SKIP() << "this host's CPU is not x86-64-v3";
    }
    run_group(group, cases_each);
  }

  const uint64_t seed_, factor_;
  Forms forms_;
  Random random_;
  Backgrounds backgrounds_;
  Generator generator_;
  Runner runner_;
  std::vector<Program> programs_;
  uint64_t cases_ = 0, failures_ = 0;
};

TEST_P(Diff, integer_instructions) { run_group(Group::Integer, 40); }
TEST_P(Diff, string_instructions) { run_group(Group::String, 200); }
TEST_P(Diff, branches) { run_group(Group::Branch, 40); }
TEST_P(Diff, privileged_instructions_in_user_mode) { run_group(Group::Privileged, 20); }
TEST_P(Diff, x87_instructions) { run_group(Group::X87, 40); }
TEST_P(Diff, mmx_instructions) { run_group(Group::Mmx, 40); }
TEST_P(Diff, sse_instructions) { run_group(Group::Sse, 40); }

TEST_P(Diff, avx_instructions) { run_group_of_level3(Group::Avx, 40); }
TEST_P(Diff, bmi_instructions) { run_group_of_level3(Group::Bmi, 200); }

TEST_P(Diff, random_sequences) {
  for (uint64_t i = 0; i < 20'000 * factor_; ++i) add(generator_.sequence());
  finish();
}

std::string executor_name(const testing::TestParamInfo<Executor>& executor) {
  return executor.param == Executor::Interpreter ? "interpreter" : "translator";
}
INSTANTIATE_TEST_SUITE_P(With, Diff, testing::Values(Executor::Interpreter, Executor::Translator),
                         executor_name);

}  // namespace
}  // namespace trapeze::diff
