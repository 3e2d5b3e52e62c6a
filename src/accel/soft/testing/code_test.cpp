// Decoded code follows what memory holds: self-modification, changes by devices, remapping.
#include <gtest/gtest.h>

#include <vector>

#include "accel/soft/mmu/mmu.h"
#include "accel/soft/testing/machine.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kCode = TestMachine::kCode;

TEST(Code, store_into_the_same_block_takes_effect_at_once) {
  TestMachine machine;
  // mov byte [rip+1], 7 ; mov al, 1   -- the store rewrites the immediate right behind it
  machine.code({0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb0, 0x01});
  EXPECT_EQ(machine.run(), RunResult::Halted);
  EXPECT_EQ(machine.cpu().gpr[kRax] & 0xff, 7U);
}

TEST(Code, store_into_code_that_ran_before_takes_effect) {
  TestMachine machine;
  machine.code({0xb0, 0x01});
  machine.run();
  machine.cpu().halted = false;
  machine.cpu().rip = kCode + 0x100;
  // mov byte [kCode+1], 9 ; hlt
  const std::vector<uint8_t> patch = {0xc6, 0x04, 0x25, 0x01, 0x00, 0x01, 0x00, 9, 0xf4};
  machine.memory().write(Gpa{kCode + 0x100}, std::as_bytes(std::span(patch)));
  machine.run();
  machine.cpu().halted = false;
  machine.cpu().rip = kCode;
  machine.run();
  EXPECT_EQ(machine.cpu().gpr[kRax] & 0xff, 9U);
}

TEST(Code, device_write_into_code_takes_effect) {
  TestMachine machine;
  machine.code({0xb0, 0x01});
  machine.run();
  machine.memory().store<uint8_t>(Gpa{kCode + 1}, 5);
  machine.cpu().halted = false;
  machine.cpu().rip = kCode;
  machine.run();
  EXPECT_EQ(machine.cpu().gpr[kRax] & 0xff, 5U);
}

TEST(Code, instruction_across_pages_runs_and_follows_both_pages) {
  TestMachine machine;
  const uint64_t at = kCode + kPageSize - 2;
  const std::vector<uint8_t> bytes = {0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4};  // mov eax, imm32; hlt
  machine.memory().write(Gpa{at}, std::as_bytes(std::span(bytes)));
  machine.cpu().rip = at;
  EXPECT_EQ(machine.run(), RunResult::Halted);
  EXPECT_EQ(machine.cpu().gpr[kRax], 0x11223344U);
  machine.memory().store<uint8_t>(Gpa{at + 4}, 0x99);
  machine.cpu().halted = false;
  machine.cpu().rip = at;
  machine.run();
  EXPECT_EQ(machine.cpu().gpr[kRax], 0x99223344U);
}

TEST(Code, fetch_from_an_absent_page_faults_at_the_instruction) {
  TestMachine machine;
  machine.cpu().rip = 0x4000'0000;
  EXPECT_EQ(machine.run(), RunResult::Fault);
  EXPECT_EQ(machine.cpu().fault.vector, kPF);
  EXPECT_EQ(machine.cpu().fault.cr2, 0x4000'0000U);
  EXPECT_EQ(machine.cpu().rip, 0x4000'0000U);
}

TEST(Code, endless_loop_ends_at_the_limit) {
  TestMachine machine;
  machine.code({0xeb, 0xfe});
  EXPECT_EQ(machine.run(1000), RunResult::Limit);
  EXPECT_GE(machine.cpu().instructions, 1000U);
}

TEST(Code, more_code_than_the_cache_holds_still_runs) {
  TestMachine machine;
  // A page of one-instruction blocks, rewritten before each run: the memory for blocks fills up.
  for (unsigned round = 0; round < 200; ++round) {
    std::vector<uint8_t> program;
    for (unsigned i = 0; i < 1000; ++i) program.insert(program.end(), {0xeb, 0x00});
    program.insert(program.end(), {0xb0, static_cast<uint8_t>(round)});
    machine.code(program);
    ASSERT_EQ(machine.run(), RunResult::Halted);
    ASSERT_EQ(machine.cpu().gpr[kRax] & 0xff, round);
  }
}

}  // namespace
}  // namespace trapeze::soft
