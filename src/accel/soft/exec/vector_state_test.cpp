// What the host cannot be asked about: availability checks, state images, pending exceptions and
// faults of x87, MMX and SSE instructions.
#include <gtest/gtest.h>

#include <cstring>
#include <span>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/testing/machine.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint64_t kData = TestMachine::kData;
using Code = std::initializer_list<uint8_t>;

// The exception that the code ends in, or -1 when it comes to its end.
int run(TestMachine& machine, Code code) {
  machine.cpu().gpr[kRsi] = kData;
  machine.cpu().fault = {};
  machine.code(code);
  return machine.run() == RunResult::Fault ? machine.cpu().fault.vector : -1;
}

template <typename T>
void poke(TestMachine& machine, uint64_t offset, T value) {
  ASSERT_TRUE(machine.memory().store<T>(Gpa{kData + offset}, value));
}
template <typename T>
T peek(TestMachine& machine, uint64_t offset) {
  return machine.memory().load<T>(Gpa{kData + offset}).value();
}

void set_xmm_double(TestMachine& machine, unsigned i, double value) {
  std::memcpy(machine.cpu().fpu.xmm[i], &value, sizeof(value));
}

constexpr Code kAddps = {0x0f, 0x58, 0xc1};
constexpr Code kPaddbMmx = {0x0f, 0xfc, 0xc1};
constexpr Code kFld1 = {0xd9, 0xe8};
constexpr Code kFxsave = {0x0f, 0xae, 0x06};
constexpr Code kFwait = {0x9b};

TEST(VectorState, task_switched_raises_device_not_available) {
  TestMachine machine;
  machine.cpu().cr0 |= kCr0Ts;
  EXPECT_EQ(run(machine, kAddps), kNM);
  EXPECT_EQ(run(machine, kPaddbMmx), kNM);
  EXPECT_EQ(run(machine, kFld1), kNM);
  EXPECT_EQ(run(machine, kFxsave), kNM);
  EXPECT_EQ(run(machine, kFwait), kNM);
  machine.cpu().cr0 &= ~kCr0Mp;
  EXPECT_EQ(run(machine, kFwait), -1);
}

TEST(VectorState, emulation_makes_vectors_undefined_and_x87_unavailable) {
  TestMachine machine;
  machine.cpu().cr0 |= kCr0Em;
  EXPECT_EQ(run(machine, kAddps), kUD);
  EXPECT_EQ(run(machine, kPaddbMmx), kUD);
  EXPECT_EQ(run(machine, kFld1), kNM);
  EXPECT_EQ(run(machine, kFwait), -1);
}

TEST(VectorState, sse_needs_osfxsr_and_mmx_does_not) {
  TestMachine machine;
  machine.cpu().cr4 &= ~kCr4Osfxsr;
  EXPECT_EQ(run(machine, kAddps), kUD);
  EXPECT_EQ(run(machine, {0x0f, 0xae, 0x16}), kUD);  // ldmxcsr [rsi]
  EXPECT_EQ(run(machine, kPaddbMmx), -1);
}

TEST(VectorState, misaligned_operands_raise_general_protection_where_alignment_is_required) {
  TestMachine machine;
  EXPECT_EQ(run(machine, {0x0f, 0x28, 0x46, 0x08}), kGP);        // movaps xmm0, [rsi + 8]
  EXPECT_EQ(run(machine, {0x0f, 0x29, 0x46, 0x08}), kGP);        // movaps [rsi + 8], xmm0
  EXPECT_EQ(run(machine, {0x0f, 0x58, 0x46, 0x01}), kGP);        // addps xmm0, [rsi + 1]
  EXPECT_EQ(run(machine, {0x66, 0x0f, 0xef, 0x46, 0x0f}), kGP);  // pxor xmm0, [rsi + 15]
  EXPECT_EQ(run(machine, {0x0f, 0xae, 0x46, 0x08}), kGP);        // fxsave [rsi + 8]
  EXPECT_EQ(machine.cpu().fault.error_code, 0U);
  EXPECT_EQ(run(machine, {0x0f, 0x10, 0x46, 0x08}), -1);              // movups
  EXPECT_EQ(run(machine, {0xf2, 0x0f, 0xf0, 0x46, 0x03}), -1);        // lddqu
  EXPECT_EQ(run(machine, {0x66, 0x0f, 0x3a, 0x63, 0x46, 1, 0}), -1);  // pcmpistri
}

TEST(VectorState, unaligned_store_across_a_page_arrives_whole) {
  TestMachine machine;
  for (unsigned i = 0; i < 16; ++i) machine.cpu().fpu.xmm[0][i] = static_cast<uint8_t>(i + 1);
  // movups [rsi + 0xff9], xmm0; movups xmm1, [rsi + 0xff9]
  ASSERT_EQ(run(machine, {0x0f, 0x11, 0x86, 0xf9, 0x0f, 0, 0, 0x0f, 0x10, 0x8e, 0xf9, 0x0f, 0, 0}),
            -1);
  EXPECT_EQ(peek<uint8_t>(machine, 0xff9), 1);
  EXPECT_EQ(peek<uint8_t>(machine, 0x1008), 16);
  EXPECT_EQ(std::memcmp(machine.cpu().fpu.xmm[0], machine.cpu().fpu.xmm[1], 16), 0);
}

TEST(VectorState, fxsave_and_fxrstor_bring_everything_back) {
  TestMachine machine;
  FpuState& fpu = machine.cpu().fpu;
  // fld1; fldz; movaps xmm9, xmm1; fxsave64 [rsi]
  std::memset(fpu.xmm[1], 0x5a, 16);
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xee, 0x44, 0x0f, 0x28, 0xc9, 0x48, 0x0f,
                          0xae, 0x06}),
            -1);
  const FpuState saved = fpu;
  EXPECT_EQ(peek<uint16_t>(machine, 0), 0x37f);
  EXPECT_EQ(peek<uint16_t>(machine, 2), 6U << 11);
  EXPECT_EQ(peek<uint8_t>(machine, 4), 0xc0);               // R6 and R7 are in use
  EXPECT_EQ(peek<uint16_t>(machine, 32 + 16 + 8), 0x3fff);  // ST(1) = 1.0
  EXPECT_EQ(peek<uint32_t>(machine, 24), 0x1f80U);
  EXPECT_EQ(peek<uint8_t>(machine, 160 + 9 * 16), 0x5a);
  fpu = FpuState{};
  ASSERT_EQ(run(machine, {0x48, 0x0f, 0xae, 0x0e}), -1);  // fxrstor64 [rsi]
  EXPECT_EQ(std::memcmp(fpu.st, saved.st, sizeof(fpu.st)), 0);
  EXPECT_EQ(std::memcmp(fpu.xmm, saved.xmm, sizeof(fpu.xmm)), 0);
  EXPECT_EQ(fpu.fsw, saved.fsw);
  EXPECT_EQ(fpu.empty, saved.empty);
  EXPECT_EQ(fpu.fip, saved.fip);
}

TEST(VectorState, fxsave_outside_64_bit_mode_has_eight_registers) {
  TestMachine machine(TestMode::Protected32);
  poke<uint64_t>(machine, 288, 0xaaaa'aaaa'aaaa'aaaa);
  machine.cpu().fpu.xmm[7][0] = 0x77;
  ASSERT_EQ(run(machine, kFxsave), -1);
  EXPECT_EQ(peek<uint8_t>(machine, 160 + 7 * 16), 0x77);
  EXPECT_EQ(peek<uint64_t>(machine, 288), 0xaaaa'aaaa'aaaa'aaaa);
  std::memset(machine.cpu().fpu.xmm[8], 0x11, 16);
  ASSERT_EQ(run(machine, {0x0f, 0xae, 0x0e}), -1);  // fxrstor [esi]
  EXPECT_EQ(machine.cpu().fpu.xmm[8][0], 0x11);
}

TEST(VectorState, reserved_mxcsr_bits_fault_and_change_nothing) {
  TestMachine machine;
  poke<uint32_t>(machine, 0, 0x1'1f80);
  EXPECT_EQ(run(machine, {0x0f, 0xae, 0x16}), kGP);  // ldmxcsr [rsi]
  EXPECT_EQ(machine.cpu().fpu.mxcsr, 0x1f80U);
  poke<uint32_t>(machine, 0, 0x0000'037f);
  poke<uint32_t>(machine, 24, 0xffff'1f80);
  EXPECT_EQ(run(machine, {0x0f, 0xae, 0x0e}), kGP);  // fxrstor [rsi]
  EXPECT_EQ(machine.cpu().fpu.mxcsr, 0x1f80U);
}

TEST(VectorState, mxcsr_flags_collect_across_blocks_and_are_stored) {
  TestMachine machine;
  set_xmm_double(machine, 0, 1.0);
  set_xmm_double(machine, 1, 3.0);
  ASSERT_EQ(run(machine, {0xf2, 0x0f, 0x5e, 0xc1}), -1);  // divsd xmm0, xmm1: inexact
  EXPECT_EQ(machine.cpu().fpu.mxcsr, kMxcsrReset | kMxcsrPe);
  ASSERT_EQ(run(machine, {0x0f, 0xae, 0x1e}), -1);  // stmxcsr [rsi]
  EXPECT_EQ(peek<uint32_t>(machine, 0), kMxcsrReset | kMxcsrPe);
  EXPECT_EQ(host_mxcsr() & ~kMxcsrFlags, kMxcsrReset);
}

TEST(VectorState, rounding_follows_mxcsr) {
  TestMachine machine;
  poke<uint32_t>(machine, 0, 0x7f80);  // toward zero
  set_xmm_double(machine, 1, 2.75);
  // ldmxcsr [rsi]; cvtsd2si eax, xmm1
  ASSERT_EQ(run(machine, {0x0f, 0xae, 0x16, 0xf2, 0x0f, 0x2d, 0xc1}), -1);
  EXPECT_EQ(machine.cpu().gpr[kRax], 2U);
}

TEST(VectorState, unmasked_simd_exception_without_operating_system_support_is_undefined) {
  TestMachine machine;
  poke<uint32_t>(machine, 0, kMxcsrReset & ~(kMxcsrZe << 7));
  set_xmm_double(machine, 0, 1.0);
  set_xmm_double(machine, 1, 0.0);
  static constexpr Code kDivide = {0x0f, 0xae, 0x16, 0xf2, 0x0f, 0x5e, 0xc1};
  EXPECT_EQ(run(machine, kDivide), kXM);
  EXPECT_EQ(machine.cpu().fpu.mxcsr & kMxcsrFlags, kMxcsrZe);
  EXPECT_EQ(machine.cpu().rip, TestMachine::kCode + 3);
  machine.cpu().cr4 &= ~kCr4Osxmmexcpt;
  EXPECT_EQ(run(machine, kDivide), kUD);
}

// fninit; fldcw [rsi] (zero divide unmasked); fld1; fldz; fdivp
constexpr uint8_t kDivideByZero[] = {0xdb, 0xe3, 0xd9, 0x2e, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9};

int divide_by_zero_then(TestMachine& machine, std::initializer_list<uint8_t> next) {
  std::vector<uint8_t> code(std::begin(kDivideByZero), std::end(kDivideByZero));
  code.insert(code.end(), next);
  poke<uint16_t>(machine, 0, 0x37b);
  machine.cpu().gpr[kRsi] = kData;
  machine.cpu().fault = {};
  machine.code(code);
  return machine.run() == RunResult::Fault ? machine.cpu().fault.vector : -1;
}

TEST(VectorState, unmasked_x87_exception_is_reported_by_the_next_waiting_instruction) {
  TestMachine machine;
  EXPECT_EQ(divide_by_zero_then(machine, {0x90}), -1);  // nop
  EXPECT_EQ(machine.cpu().fpu.fsw & (kFswEs | 4), kFswEs | 4);
  EXPECT_EQ(divide_by_zero_then(machine, {0xd9, 0xe8}), kMF);        // fld1
  EXPECT_EQ(divide_by_zero_then(machine, kFwait), kMF);              // fwait
  EXPECT_EQ(divide_by_zero_then(machine, {0x0f, 0xfc, 0xc1}), kMF);  // paddb mm0, mm1
  EXPECT_EQ(divide_by_zero_then(machine, {0x0f, 0x77}), kMF);        // emms
  EXPECT_EQ(divide_by_zero_then(machine, {0xdf, 0xe0}), -1);         // fnstsw ax
  EXPECT_EQ(machine.cpu().gpr[kRax] & kFswEs, kFswEs);
  EXPECT_EQ(divide_by_zero_then(machine, {0xdb, 0xe2, 0x9b}), -1);  // fnclex; fwait
  EXPECT_EQ(divide_by_zero_then(machine, {0x0f, 0x58, 0xc1}), -1);  // addps
}

TEST(VectorState, pending_x87_exception_without_numeric_error_is_ignored) {
  TestMachine machine;
  machine.cpu().cr0 &= ~kCr0Ne;
  EXPECT_EQ(divide_by_zero_then(machine, {0xd9, 0xe8, 0xd9, 0xfa}), -1);  // fld1; fsqrt
  EXPECT_EQ(machine.cpu().fpu.fsw & (kFswEs | 4), kFswEs | 4);
}

TEST(VectorState, faulting_x87_store_does_not_pop) {
  TestMachine machine;
  machine.cpu().gpr[kRdi] = uint64_t{2} << 30;                         // not mapped
  EXPECT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0xe8, 0xdd, 0x1f}), kPF);  // fstp qword [rdi]
  EXPECT_EQ(fpu_top(machine.cpu().fpu), 7U);
  EXPECT_EQ(machine.cpu().fpu.empty, 0x7f);
  EXPECT_EQ(machine.cpu().fault.cr2, uint64_t{2} << 30);
}

TEST(VectorState, environment_of_protected_mode_names_the_last_instruction) {
  TestMachine machine(TestMode::Protected32);
  // fninit; fld dword [esi + 64]; fnstenv [esi]
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0x46, 0x40, 0xd9, 0x36}), -1);
  EXPECT_EQ(peek<uint32_t>(machine, 0), 0xffff'037fU);
  EXPECT_EQ(peek<uint32_t>(machine, 4), 0xffff'3800U);
  EXPECT_EQ(peek<uint32_t>(machine, 8), 0xffff'7fffU);
  EXPECT_EQ(peek<uint32_t>(machine, 12), TestMachine::kCode + 2);
  EXPECT_EQ(peek<uint32_t>(machine, 16), 0U);
  EXPECT_EQ(peek<uint32_t>(machine, 20), 0U);
  EXPECT_EQ(peek<uint32_t>(machine, 24), 0xffff'0000U);
}

TEST(VectorState, environment_has_opcode_and_operand_of_what_raised_an_unmasked_exception) {
  TestMachine machine(TestMode::Protected32);
  poke<uint16_t>(machine, 80, 0x37b);  // division by 0 unmasked
  // fninit; fldcw [esi + 80]; fld1; fdiv dword [esi + 64]; fnstenv [esi]
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0x6e, 0x50, 0xd9, 0xe8, 0xd8, 0x76, 0x40, 0xd9, 0x36}),
            -1);
  EXPECT_EQ(peek<uint32_t>(machine, 12), TestMachine::kCode + 7);
  EXPECT_EQ(peek<uint32_t>(machine, 16), 0x0076'0000U);
  EXPECT_EQ(peek<uint32_t>(machine, 20), kData + 64);
}

TEST(VectorState, environment_of_the_16_bit_form_has_seven_words) {
  TestMachine machine(TestMode::Protected32);
  poke<uint16_t>(machine, 14, 0xeeee);
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0xe8, 0x66, 0xd9, 0x36}), -1);  // data16 fnstenv [esi]
  EXPECT_EQ(peek<uint16_t>(machine, 4), 0x3fff);
  EXPECT_EQ(peek<uint16_t>(machine, 6), (TestMachine::kCode + 2) & 0xffff);
  EXPECT_EQ(peek<uint16_t>(machine, 8), 0);
  EXPECT_EQ(peek<uint16_t>(machine, 14), 0xeeee);
}

TEST(VectorState, environment_of_real_mode_has_no_selectors) {
  TestMachine machine(TestMode::Real16);
  machine.cpu().gpr[kRbx] = 0x200;
  machine.cpu().fault = {};
  machine.code({0xdb, 0xe3, 0xd9, 0x07, 0xd9, 0x37});  // fninit; fld dword [bx]; fnstenv [bx]
  ASSERT_EQ(machine.run(), RunResult::Halted);
  const auto word = [&](unsigned i) {
    return machine.memory().load<uint16_t>(Gpa{0x200 + i * 2}).value();
  };
  EXPECT_EQ(word(0), 0x37f);
  EXPECT_EQ(word(3), (TestMachine::kCode + 2) & 0xffff);
  EXPECT_EQ(word(4), 0);
  EXPECT_EQ(word(5), 0);
  EXPECT_EQ(word(6), 0);
}

TEST(VectorState, fnsave_and_frstor_bring_the_stack_back) {
  TestMachine machine;
  // fninit; fld1; fldpi; fldz; ffree st(1); fnsave [rsi]
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0xe8, 0xd9, 0xeb, 0xd9, 0xee, 0xdd, 0xc1, 0xdd, 0x36}),
            -1);
  EXPECT_EQ(peek<uint32_t>(machine, 8), 0xffff'37ffU);
  EXPECT_EQ(machine.cpu().fpu.empty, 0xff);
  EXPECT_EQ(machine.cpu().fpu.fcw, kFcwReset);
  ASSERT_EQ(run(machine, {0xdd, 0x26, 0xdf, 0xe0}), -1);  // frstor [rsi]; fnstsw ax
  EXPECT_EQ((machine.cpu().gpr[kRax] >> 11) & 7, 5U);
  EXPECT_EQ(machine.cpu().fpu.empty, 0x5f);
  EXPECT_EQ(machine.cpu().fpu.st[7][9], 0x3f);  // 1.0
}

TEST(VectorState, mmx_write_marks_all_registers_valid_and_emms_empties_them) {
  TestMachine machine;
  machine.cpu().gpr[kRax] = 0x1234;
  ASSERT_EQ(run(machine, {0xdb, 0xe3, 0xd9, 0xe8, 0x0f, 0x6e, 0xd8}), -1);  // movd mm3, eax
  EXPECT_EQ(machine.cpu().fpu.empty, 0);
  EXPECT_EQ(fpu_top(machine.cpu().fpu), 0U);
  EXPECT_EQ(machine.cpu().fpu.st[3][0], 0x34);
  EXPECT_EQ(machine.cpu().fpu.st[3][9], 0xff);
  ASSERT_EQ(run(machine, {0x0f, 0x77}), -1);
  EXPECT_EQ(machine.cpu().fpu.empty, 0xff);
}

TEST(VectorState, masked_store_does_not_touch_what_is_not_selected) {
  TestMachine machine;
  constexpr uint64_t kMappedEnd = uint64_t{1} << 30;
  machine.cpu().gpr[kRdi] = kMappedEnd - 8;
  std::memset(machine.cpu().fpu.xmm[1], 0, 16);
  std::memset(machine.cpu().fpu.xmm[1], 0x80, 8);
  EXPECT_EQ(run(machine, {0x66, 0x0f, 0xf7, 0xc1}), -1);  // maskmovdqu xmm0, xmm1
  machine.cpu().fpu.xmm[1][8] = 0x80;
  EXPECT_EQ(run(machine, {0x66, 0x0f, 0xf7, 0xc1}), kPF);
  EXPECT_EQ(machine.cpu().fault.cr2, kMappedEnd);
}

}  // namespace
}  // namespace trapeze::soft::exec
