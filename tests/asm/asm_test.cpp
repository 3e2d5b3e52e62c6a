// Runs the programs of this folder on the software CPU until they halt.
//
// Comment lines at the head of each .asm file say what is expected:
//   ; mode: real16 | protected32 | long64     the mode it starts in (accel/soft/testing/machine.h)
//   ; expect: ax=0x1234 ecx=1 rdx=...         registers at the HLT, any width; numbers as in C
// Programs lie at 0x10000 (real16: 1000:0000). Exceptions go through the program's own IDT; one
// that cannot be delivered ends in a triple fault, which is a failure.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include "accel/soft/testing/machine.h"

namespace trapeze::soft {
namespace {

struct Expectation {
  std::string name;
  unsigned gpr = 0;
  uint64_t mask = ~uint64_t{0};
  uint64_t value = 0;
};

struct AsmCase {
  TestMode mode = TestMode::Long64;
  std::vector<Expectation> expectations;
};

// Of ax, eax, rax, r8 and the like.
std::optional<Expectation> parse_register(const std::string& name) {
  constexpr const char* kNames[] = {"ax", "cx", "dx", "bx", "sp", "bp", "si", "di"};
  Expectation result;
  result.name = name;
  std::string bare = name;
  result.mask = 0xffff;
  if (name.size() == 3 && name[0] == 'e') result.mask = 0xffff'ffff;
  if (name.size() == 3 && name[0] == 'r') result.mask = ~uint64_t{0};
  if (name.size() == 3) bare = name.substr(1);
  for (unsigned i = 0; i < 8; ++i) {
    if (bare == kNames[i]) {
      result.gpr = i;
      return result;
    }
  }
  if (name.size() < 2 || name[0] != 'r') return std::nullopt;
  result.mask = ~uint64_t{0};
  result.gpr = static_cast<unsigned>(std::atoi(name.c_str() + 1));
  if (result.gpr < 8 || result.gpr > 15) return std::nullopt;
  return result;
}

std::optional<AsmCase> parse_case(const std::filesystem::path& source) {
  AsmCase result;
  std::ifstream file(source);
  std::string line;
  while (std::getline(file, line) && line.starts_with(";")) {
    std::istringstream words(line.substr(1));
    std::string word;
    words >> word;
    if (word == "mode:") {
      words >> word;
      if (word == "real16") result.mode = TestMode::Real16;
      if (word == "protected32") result.mode = TestMode::Protected32;
    } else if (word == "expect:") {
      while (words >> word) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos) return std::nullopt;
        std::optional<Expectation> expectation = parse_register(word.substr(0, equals));
        if (!expectation) return std::nullopt;
        expectation->value = std::strtoull(word.c_str() + equals + 1, nullptr, 0);
        result.expectations.push_back(*expectation);
      }
    }
  }
  if (result.expectations.empty()) return std::nullopt;
  return result;
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(TRAPEZE_ASM_SOURCES, error)) {
    if (entry.path().extension() == ".asm") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class AsmTest : public testing::TestWithParam<std::string> {};

TEST_P(AsmTest, ends_as_expected) {
  const auto source = std::filesystem::path(TRAPEZE_ASM_SOURCES) / (GetParam() + ".asm");
  const std::optional<AsmCase> test = parse_case(source);
  ASSERT_TRUE(test.has_value()) << source << ": no expectation that can be read";
  std::ifstream file(std::filesystem::path(TRAPEZE_ASM_PROGRAMS) / (GetParam() + ".bin"),
                     std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(bytes.empty());

  TestMachine machine(test->mode);
  std::vector<uint8_t> program(bytes.begin(), bytes.end());
  machine.code(program);
  const RunResult result = run_interpreter(machine.cpu(), {.instructions = 100'000});

  EXPECT_EQ(result, RunResult::Halted) << "rip " << std::hex << machine.cpu().rip;
  for (const Expectation& expectation : test->expectations) {
    EXPECT_EQ(machine.cpu().gpr[expectation.gpr] & expectation.mask, expectation.value)
        << expectation.name << " is " << std::hex
        << (machine.cpu().gpr[expectation.gpr] & expectation.mask);
  }
}

INSTANTIATE_TEST_SUITE_P(Programs, AsmTest, testing::ValuesIn(case_names()),
                         [](const auto& program) { return program.param; });

}  // namespace
}  // namespace trapeze::soft
