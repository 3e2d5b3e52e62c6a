// What the differential tests cannot reach, or reach by chance only: code and data on several
// pages, and where jumps lie.
#include "accel/soft/translator/translator.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <vector>

#include "accel/soft/exec/fpu.h"
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

// R9 to R11 live in memory, and code that uses one again has it in a scratch register: also behind
// an access that crosses pages, which the interpreter does, and behind a group of which one access
// does.
TEST(Translator, register_in_memory_is_as_a_slow_path_left_it) {
  const std::vector<uint8_t> programs[] = {
      // mov r10, [rbx]; sub r10w, r8w
      {0x4c, 0x8b, 0x13, 0x66, 0x45, 0x29, 0xc2},
      // mov rax, [rbx-20h]; mov r10, [rbx]; sub r10w, r8w
      {0x48, 0x8b, 0x43, 0xe0, 0x4c, 0x8b, 0x13, 0x66, 0x45, 0x29, 0xc2},
  };
  for (const std::vector<uint8_t>& program : programs) {
    TestMachine machine;
    machine.use_translator();
    const uint64_t data = TestMachine::kData + kPageSize - 3;
    machine.cpu().gpr[kRbx] = data;
    machine.cpu().gpr[8] = 1;
    machine.memory().store<uint64_t>(Gpa{data}, 0x1122'3344'5566'7788);
    run_at(machine, TestMachine::kCode, program, 3);
    EXPECT_EQ(machine.cpu().gpr[10], 0x1122'3344'5566'7787U) << program.size();
  }
}

struct X87 : testing::Test {
  TestMachine machine;
  Cpu& cpu = machine.cpu();
  X87() {
    machine.use_translator();
    fpu_init(cpu.fpu);
    cpu.gpr[kRbx] = TestMachine::kData;
  }
  uint64_t interpreted() { return machine.translator().stats().interpreted; }
  // The host's own unit is as C++ code wants it: long double computes, at full precision.
  static void expect_clean_host() {
    uint16_t control = 0, status = 0;
    asm volatile("fnstcw %0\n\tfnstsw %1" : "=m"(control), "=m"(status));
    EXPECT_EQ(control, kFcwReset);
    EXPECT_EQ(status, 0);
  }
};

TEST_F(X87, runs_on_the_hosts_unit) {
  // fldpi; fld1; fadd st0, st1; fstp qword [rbx]; fstp qword [rbx+8]
  run_at(machine, TestMachine::kCode,
         {0xd9, 0xeb, 0xd9, 0xe8, 0xd8, 0xc1, 0xdd, 0x1b, 0xdd, 0x5b, 0x08}, 20);
  EXPECT_EQ(machine.memory().load<double>(Gpa{TestMachine::kData}), 4.1415926535897931);
  EXPECT_EQ(machine.memory().load<double>(Gpa{TestMachine::kData + 8}), 3.1415926535897931);
  EXPECT_EQ(interpreted(), 20U) << "the HLTs";
  EXPECT_EQ(cpu.fpu.fip, TestMachine::kCode + 8);
  EXPECT_EQ(cpu.fpu.empty, 0xff);
  expect_clean_host();
}

TEST_F(X87, state_outlives_what_the_interpreter_does_in_between) {
  cpu.gpr[kRsi] = TestMachine::kData;
  // fld1; cpuid; fld1; faddp; wbinvd; fstp qword [rsi]
  run_at(machine, TestMachine::kCode,
         {0xd9, 0xe8, 0x0f, 0xa2, 0xd9, 0xe8, 0xde, 0xc1, 0x0f, 0x09, 0xdd, 0x1e}, 5);
  EXPECT_EQ(machine.memory().load<double>(Gpa{TestMachine::kData}), 2.0);
  EXPECT_EQ(cpu.fpu.fip, TestMachine::kCode + 10);
  expect_clean_host();
}

// Rounds towards zero and back, as compilers do for a conversion to integers.
TEST_F(X87, control_word_with_masked_exceptions_is_loaded_by_the_host) {
  machine.memory().store<uint16_t>(Gpa{TestMachine::kData}, 0xf7f);
  machine.memory().store<double>(Gpa{TestMachine::kData + 8}, -2.75);
  // fnstcw [rbx+2]; fldcw [rbx]; fld qword [rbx+8]; fistp dword [rbx+16]; fldcw [rbx+2]
  run_at(machine, TestMachine::kCode,
         {0xd9, 0x7b, 0x02, 0xd9, 0x2b, 0xdd, 0x43, 0x08, 0xdb, 0x5b, 0x10, 0xd9, 0x6b, 0x02}, 20);
  EXPECT_EQ(machine.memory().load<int32_t>(Gpa{TestMachine::kData + 16}), -2);
  EXPECT_EQ(cpu.fpu.fcw, kFcwReset);
  EXPECT_EQ(interpreted(), 20U);
  expect_clean_host();
}

TEST_F(X87, unmasked_exceptions_never_reach_the_host) {
  machine.memory().store<uint16_t>(Gpa{TestMachine::kData}, 0x37b);  // division by 0 unmasked
  cpu.cr0 |= 1U << 5;                                                // NE
  // fldcw [rbx]; fld1; fdiv dword [rbx+8]; fnstsw ax; fwait
  machine.code({0xd9, 0x2b, 0xd9, 0xe8, 0xd8, 0x73, 0x08, 0xdf, 0xe0, 0x9b});
  for (int i = 0; i < 5; ++i) {
    fpu_init(cpu.fpu);
    cpu.rip = TestMachine::kCode;
    EXPECT_EQ(machine.run(), RunResult::Fault);
    EXPECT_EQ(cpu.fault.vector, kMF);
    EXPECT_EQ(cpu.rip, TestMachine::kCode + 9);
    EXPECT_EQ(cpu.gpr[kRax] & 0x80ff, 0x8084U);  // busy, summary, division by 0
    cpu.fault = {};
    expect_clean_host();
  }
}

TEST_F(X87, task_switched_is_seen) {
  const std::vector<uint8_t> code = {0xd9, 0xe8, 0xdd, 0xd8};  // fld1; fstp st0
  run_at(machine, TestMachine::kCode, code, 5);
  cpu.cr0 |= 1U << 3;
  cpu.rip = TestMachine::kCode;
  cpu.halted = false;
  EXPECT_EQ(machine.run(), RunResult::Fault);
  EXPECT_EQ(cpu.fault.vector, kNM);
  EXPECT_EQ(cpu.rip, TestMachine::kCode);
  expect_clean_host();
}

// Accesses through RBX with others between them, so that no group holds them:
// mov rax,[rbx]; mov rcx,[rsi]; mov rdx,[rbx+20h]; mov [rbx+28h],rcx; mov rbp,[rsi]; mov
// r8,[rbx+28h]
const std::vector<uint8_t> kAccesses = {
    0x48, 0x8b, 0x03, 0x48, 0x8b, 0x0e, 0x48, 0x8b, 0x53, 0x20, 0x48,
    0x89, 0x4b, 0x28, 0x48, 0x8b, 0x2e, 0x4c, 0x8b, 0x43, 0x28,
};

struct Accesses {
  TestMachine machine;
  Accesses() { machine.use_translator(); }
  void run(uint64_t rbx, int times) {
    machine.cpu().gpr[kRbx] = rbx;
    machine.cpu().gpr[kRsi] = TestMachine::kData + 0x3000;
    machine.memory().store<uint64_t>(Gpa{rbx}, 11);
    machine.memory().store<uint64_t>(Gpa{rbx + 0x20}, 22);
    machine.memory().store<uint64_t>(Gpa{TestMachine::kData + 0x3000}, 33);
    run_at(machine, TestMachine::kCode, kAccesses, times);
    EXPECT_EQ(machine.cpu().gpr[kRax], 11U);
    EXPECT_EQ(machine.cpu().gpr[kRdx], 22U);
    EXPECT_EQ(machine.cpu().gpr[8], 33U);
    EXPECT_EQ(machine.memory().load<uint64_t>(Gpa{rbx + 0x28}), 33U);
  }
};

TEST(Translator, what_a_probe_found_serves_later_accesses) {
  Accesses accesses;
  accesses.run(TestMachine::kData, 2);
  EXPECT_EQ(accesses.machine.translator().stats().keep_misses, 0U);
}

TEST(Translator, kept_page_that_does_not_hold_all_accesses_is_left_to_the_interpreter) {
  for (const uint64_t last : {0x22, 0x28, 0x2c}) {  // bytes on the first page
    Accesses accesses;
    accesses.run(TestMachine::kData + kPageSize - last, 4);
    EXPECT_EQ(accesses.machine.translator().stats().keep_misses, 4U) << last;
  }
}

TEST(Translator, code_whose_kept_pages_seldom_do_is_translated_without) {
  Accesses accesses;
  constexpr int kTimes = 5000;
  accesses.run(TestMachine::kData + kPageSize - 0x28, kTimes);
  EXPECT_LT(accesses.machine.translator().stats().keep_misses, uint64_t{kTimes});
}

TEST(Translator, write_through_a_page_kept_for_reading_is_probed_anew) {
  Accesses accesses;
  accesses.run(TestMachine::kData, 1);
  // The first access through RBX is a read; the write needs the right to write.
  const std::string code = accesses.machine.emitted_code();
  EXPECT_NE(code.find("write_tags"), std::string::npos) << code;
}

bool is_jump(const ZydisDecodedInstruction& insn) {
  return insn.meta.category == ZYDIS_CATEGORY_COND_BR ||
         insn.meta.category == ZYDIS_CATEGORY_CALL || insn.meta.category == ZYDIS_CATEGORY_RET ||
         insn.meta.category == ZYDIS_CATEGORY_UNCOND_BR;
}

// Behind a JRCXZ there are jumps that run seldom.
void expect_jumps_in_lines(std::span<const std::byte> code) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisMnemonic before = ZYDIS_MNEMONIC_INVALID;
  for (size_t at = 0; at < code.size();) {
    ZydisDecodedInstruction insn;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data() + at,
                                                    code.size() - at, &insn))) {
      return;
    }
    const auto in_line = reinterpret_cast<uintptr_t>(code.data() + at) % 32;
    const bool cold = insn.mnemonic == ZYDIS_MNEMONIC_JMP &&
                      (before == ZYDIS_MNEMONIC_JRCXZ || before == ZYDIS_MNEMONIC_JMP);
    if (is_jump(insn) && !cold) {
      EXPECT_LT(in_line + insn.length, 32U)
          << ZydisMnemonicGetString(insn.mnemonic) << " at " << at;
    }
    before = insn.mnemonic;
    at += insn.length;
  }
}

TEST(Translator, padded_jumps_stay_within_a_line) {
  const std::vector<uint8_t> kEnds[] = {
      {0xe8, 0, 0, 0, 0},              // call
      {0xff, 0xd0},                    // call rax
      {0xff, 0x63, 0x08},              // jmp [rbx+8]
      {0xc3},                          // ret
      {0x48, 0xff, 0xc8, 0x75, 0xfb},  // dec rax; jnz back
      {0x85, 0xc0, 0x74, 0x10},        // test eax, eax; jz
      {0xeb, 0x10},                    // jmp
  };
  for (const auto& end : kEnds) {
    for (unsigned pushes = 0; pushes < 32; ++pushes) {
      TestMachine machine;
      machine.use_translator();
      machine.translator().pad_jumps(true);
      std::vector<uint8_t> code(pushes, 0x53);
      code.insert(code.end(), {0x8b, 0x06});  // mov eax, [rsi]
      code.insert(code.end(), end.begin(), end.end());
      machine.code(std::span(code));
      machine.translate_here();
      for (const auto& emitted : machine.translator().emitted())
        expect_jumps_in_lines(emitted.code);
    }
  }
}

}  // namespace
}  // namespace trapeze::soft
