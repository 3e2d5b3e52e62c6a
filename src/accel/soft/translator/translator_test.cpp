// What the differential tests cannot reach: code on several pages.
#include "accel/soft/translator/translator.h"

#include <gtest/gtest.h>

#include <vector>

#include "accel/soft/testing/machine.h"

namespace trapeze::soft {
namespace {

// Runs `bytes` at `at` until HLT, `times` times over, all of it translated.
void run_at(TestMachine& machine, uint64_t at, std::vector<uint8_t> bytes, int times) {
  bytes.push_back(0xf4);
  ASSERT_TRUE(machine.memory().write(Gpa{at}, std::as_bytes(std::span(bytes))));
  for (int i = 0; i < times; ++i) {
    machine.cpu().rip = at;
    machine.cpu().halted = false;
    ASSERT_EQ(machine.run(), RunResult::Halted);
  }
}

TEST(Translator, instruction_on_two_pages) {
  TestMachine machine;
  machine.use_translator();
  machine.cpu().gpr[8] = 1;
  // lea eax, [r8+2]; mov edi, 1 (on both pages); movabs r10, 0x2d...; mov esi, eax
  run_at(machine, 0x10ff8, {0x41, 0x8d, 0x40, 0x02, 0xbf, 1,    0,    0,    0,    0x49, 0xba,
                            0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0x89, 0xc6},
         8);
  EXPECT_EQ(machine.cpu().gpr[kRax], 3U);
  EXPECT_EQ(machine.cpu().gpr[kRdi], 1U);
  EXPECT_EQ(machine.cpu().gpr[kRsi], 3U);
  EXPECT_EQ(machine.cpu().gpr[10], 0x2d2d'2d2d'2d2d'2d2dU);
}

}  // namespace
}  // namespace trapeze::soft
