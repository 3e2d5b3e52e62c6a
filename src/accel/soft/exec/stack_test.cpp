#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kTop = TestMachine::kStackTop;

TEST(StackTest, push_and_pop_of_the_stack_pointer) {
  Guest g;
  EXPECT_EQ(g.run({/* push rsp; mov rax, [rsp]; pop rsp; mov rbx, rsp */ 0x54, 0x48, 0x8b, 0x04,
                   0x24, 0x5c, 0x48, 0x89, 0xe3}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], kTop);
  EXPECT_EQ(g[kRbx], kTop);
}

TEST(StackTest, pushed_immediates_are_sign_extended) {
  Guest g;
  EXPECT_EQ(g.run({/* push -2; push strict dword -0x80000000; push word -3 */ 0x6a, 0xfe, 0x68,
                   0x00, 0x00, 0x00, 0x80, 0x66, 0x6a, 0xfd}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kTop - 8), ~uint64_t{1});
  EXPECT_EQ(g.get<uint64_t>(kTop - 16), 0xffff'ffff'8000'0000U);
  EXPECT_EQ(g.get<uint16_t>(kTop - 18), 0xfffdU);
  EXPECT_EQ(g[kRsp], kTop - 18);
}

TEST(StackTest, memory_forms) {
  Guest g;
  g[kRbx] = Guest::kData;
  g.put<uint64_t>(Guest::kData, 0x1122'3344'5566'7788);
  EXPECT_EQ(g.run({/* push qword [rbx]; pop qword [rbx + 8]; push word [rbx]; pop cx */ 0xff, 0x33,
                   0x8f, 0x43, 0x08, 0x66, 0xff, 0x33, 0x66, 0x59}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData + 8), 0x1122'3344'5566'7788U);
  EXPECT_EQ(g[kRcx], 0x7788U);
  EXPECT_EQ(g[kRsp], kTop);
}

TEST(StackTest, pop_to_an_address_by_the_stack_pointer_uses_its_new_value) {
  Guest g;
  EXPECT_EQ(
      g.run({/* push 1; push 42; pop qword [rsp] */ 0x6a, 0x01, 0x6a, 0x2a, 0x8f, 0x04, 0x24}),
      Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kTop - 8), 42U);
}

TEST(StackTest, pop_to_memory_that_faults_moves_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRbx] = Guest::kUnmapped;
  EXPECT_EQ(g.run({/* pop qword [rbx] */ 0x8f, 0x03}), kPF);
  EXPECT_EQ(g[kRsp], kTop);
}

TEST(StackTest, push_that_faults_moves_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRsp] = Guest::kUnmapped + 4;
  EXPECT_EQ(g.run({/* push rax */ 0x50}), kPF);
  EXPECT_EQ(g[kRsp], Guest::kUnmapped + 4);
  EXPECT_EQ(g.cpu().fault.cr2, Guest::kUnmapped);
}

TEST(StackTest, non_canonical_stack_is_ss) {
  Guest g;
  g[kRsp] = 0x8000'0000'0010;
  EXPECT_EQ(g.run({/* push rax */ 0x50}), kSS);
}

TEST(StackTest, leave_and_enter) {
  Guest g;
  g[kRbp] = 0x1234;
  EXPECT_EQ(g.run({/* enter 32, 0; mov rax, rbp; mov rbx, rsp; leave */ 0xc8, 0x20, 0x00, 0x00,
                   0x48, 0x89, 0xe8, 0x48, 0x89, 0xe3, 0xc9}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], kTop - 8);
  EXPECT_EQ(g[kRbx], kTop - 8 - 32);
  EXPECT_EQ(g[kRbp], 0x1234U);
  EXPECT_EQ(g[kRsp], kTop);
}

TEST(StackTest, enter_copies_frame_pointers) {
  Guest g;
  g[kRbp] = Guest::kData + 0x100;
  g.put<uint64_t>(Guest::kData + 0xf8, 0xaaaa);
  g.put<uint64_t>(Guest::kData + 0xf0, 0xbbbb);
  EXPECT_EQ(g.run({/* enter 16, 3 */ 0xc8, 0x10, 0x00, 0x03}), Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kTop - 8), Guest::kData + 0x100);
  EXPECT_EQ(g.get<uint64_t>(kTop - 16), 0xaaaaU);
  EXPECT_EQ(g.get<uint64_t>(kTop - 24), 0xbbbbU);
  EXPECT_EQ(g.get<uint64_t>(kTop - 32), kTop - 8);
  EXPECT_EQ(g[kRbp], kTop - 8);
  EXPECT_EQ(g[kRsp], kTop - 32 - 16);
}

TEST(StackTest, enter_with_16_bit_operands_writes_bp_only) {
  Guest g;
  g[kRbp] = 0x1234'5678;
  EXPECT_EQ(g.run({/* o16 enter 0, 0 */ 0x66, 0xc8, 0x00, 0x00, 0x00}), Guest::kHalted);
  EXPECT_EQ(g.get<uint16_t>(kTop - 2), 0x5678U);
  EXPECT_EQ(g[kRbp], 0x1234'0000U + kTop - 2);
  EXPECT_EQ(g[kRsp], kTop - 2);
}

TEST(StackTest, enter_checks_the_new_top_of_the_stack) {
  Guest g;
  g.unmap_behind_data();
  g[kRsp] = Guest::kUnmapped + 0x20'0008;  // the page behind the hole
  g[kRbp] = 1;
  EXPECT_EQ(g.run({/* enter 16, 0 */ 0xc8, 0x10, 0x00, 0x00}), kPF);
  EXPECT_EQ(g[kRsp], Guest::kUnmapped + 0x20'0008);
  EXPECT_EQ(g[kRbp], 1U);
}

TEST(StackTest, pusha_and_popa) {
  Guest g(TestMode::Protected32);
  for (unsigned i = 0; i < 8; ++i) {
    if (i != kRsp) g.cpu().gpr[i] = 0x100 + i;
  }
  EXPECT_EQ(g.run({/* pusha; mov eax, [esp + 12]; mov dword [esp + 12], 0; mov dword [esp], 7; mov
                      dword [0x200000], eax; popa */
                   0x60,
                   0x8b,
                   0x44,
                   0x24,
                   0x0c,
                   0xc7,
                   0x44,
                   0x24,
                   0x0c,
                   0x00,
                   0x00,
                   0x00,
                   0x00,
                   0xc7,
                   0x04,
                   0x24,
                   0x07,
                   0x00,
                   0x00,
                   0x00,
                   0xa3,
                   0x00,
                   0x00,
                   0x20,
                   0x00,
                   0x61}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint32_t>(Guest::kData), kTop);
  EXPECT_EQ(g.get<uint32_t>(kTop - 4), 0x100U);
  EXPECT_EQ(g.get<uint32_t>(kTop - 20), 0U);
  EXPECT_EQ(g[kRax], 0x100U);
  EXPECT_EQ(g[kRdi], 7U);
  EXPECT_EQ(g[kRsp], kTop);
}

TEST(StackTest, sixteen_bit_stack_pointer_wraps_and_keeps_the_upper_half) {
  Guest g(TestMode::Real16);
  g[kRsp] = 0x1234'0000;
  g[kRax] = 0xbeef;
  EXPECT_EQ(g.run({/* push ax; pusha; popa */ 0x50, 0x60, 0x61}), Guest::kHalted);
  EXPECT_EQ(g.get<uint16_t>(0xfffe), 0xbeefU);
  EXPECT_EQ(g[kRsp], 0x1234'fffeU);
}

}  // namespace
}  // namespace trapeze::soft
