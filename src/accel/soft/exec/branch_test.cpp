#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kCode = TestMachine::kCode;
constexpr uint64_t kStackTop = TestMachine::kStackTop;

TEST(BranchTest, loop_with_jcc) {
  Guest g;
  g[kRcx] = 10;
  EXPECT_EQ(g.run({/* again: add rax, rcx; dec rcx; jnz again */ 0x48, 0x01, 0xc8, 0x48, 0xff, 0xc9,
                   0x75, 0xf8}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 55U);
}

TEST(BranchTest, near_and_short_jcc_backwards_and_forwards) {
  Guest g;
  EXPECT_EQ(g.run({/* jmp near two; one: or al, 1; jc near three; hlt; two: or al, 2; stc; jc one;
                      hlt; three: or al, 4 */
                   0xe9,
                   0x09,
                   0x00,
                   0x00,
                   0x00,
                   0x0c,
                   0x01,
                   0x0f,
                   0x82,
                   0x07,
                   0x00,
                   0x00,
                   0x00,
                   0xf4,
                   0x0c,
                   0x02,
                   0xf9,
                   0x72,
                   0xf2,
                   0xf4,
                   0x0c,
                   0x04}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 3U);  // OR clears the carry
}

TEST(BranchTest, call_and_ret) {
  Guest g;
  EXPECT_EQ(g.run({/* call f; or al, 1; hlt; f: mov rbx, [rsp]; ret */ 0xe8, 0x03, 0x00, 0x00, 0x00,
                   0x0c, 0x01, 0xf4, 0x48, 0x8b, 0x1c, 0x24, 0xc3}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 1U);
  EXPECT_EQ(g[kRbx], kCode + 5);
  EXPECT_EQ(g[kRsp], kStackTop);
}

TEST(BranchTest, indirect_forms_and_ret_with_immediate) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRdx] = 0;
  EXPECT_EQ(
      g.run({/* lea rax, [rel f]; mov [rbx], rax; push 1; push 2; call rax; push 3; push 4; call
                [rbx]; lea rax, [rel end]; jmp rax; hlt; f: inc ecx; ret 16; hlt; end: or edx, 1 */
             0x48,
             0x8d,
             0x05,
             0x19,
             0x00,
             0x00,
             0x00,
             0x48,
             0x89,
             0x03,
             0x6a,
             0x01,
             0x6a,
             0x02,
             0xff,
             0xd0,
             0x6a,
             0x03,
             0x6a,
             0x04,
             0xff,
             0x13,
             0x48,
             0x8d,
             0x05,
             0x09,
             0x00,
             0x00,
             0x00,
             0xff,
             0xe0,
             0xf4,
             0xff,
             0xc1,
             0xc2,
             0x10,
             0x00,
             0xf4,
             0x83,
             0xca,
             0x01}),
      Guest::kHalted);
  EXPECT_EQ(g[kRcx], 2U);
  EXPECT_EQ(g[kRdx], 1U);
  EXPECT_EQ(g[kRsp], kStackTop);
}

TEST(BranchTest, call_through_the_stack_pointer_uses_its_value_before) {
  Guest g;
  EXPECT_EQ(
      g.run({/* lea rax, [rel f]; push rax; call [rsp]; hlt; f: or bl, 1; hlt */ 0x48, 0x8d, 0x05,
             0x05, 0x00, 0x00, 0x00, 0x50, 0xff, 0x14, 0x24, 0xf4, 0x80, 0xcb, 0x01, 0xf4}),
      Guest::kHalted);
  EXPECT_EQ(g[kRbx], 1U);
}

TEST(BranchTest, non_canonical_target_faults_on_the_branch_and_changes_nothing) {
  Guest jump;
  jump[kRax] = 0x8000'0000'0000;
  EXPECT_EQ(jump.run({/* jmp rax */ 0xff, 0xe0}), kGP);
  EXPECT_EQ(jump.cpu().rip, kCode);

  Guest call;
  call[kRax] = 0x8000'0000'0000;
  EXPECT_EQ(call.run({/* call rax */ 0xff, 0xd0}), kGP);
  EXPECT_EQ(call[kRsp], kStackTop);
  EXPECT_EQ(call.cpu().rip, kCode);

  Guest ret;
  ret.put<uint64_t>(kStackTop, 0x8000'0000'0000);
  EXPECT_EQ(ret.run({/* ret */ 0xc3}), kGP);
  EXPECT_EQ(ret[kRsp], kStackTop);
  EXPECT_EQ(ret.cpu().rip, kCode);
}

TEST(BranchTest, call_that_cannot_push_changes_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRsp] = Guest::kUnmapped + 8;
  EXPECT_EQ(g.run({/* call next; next: nop */ 0xe8, 0x00, 0x00, 0x00, 0x00, 0x90}), kPF);
  EXPECT_EQ(g[kRsp], Guest::kUnmapped + 8);
  EXPECT_EQ(g.cpu().rip, kCode);
}

TEST(BranchTest, operand_size_prefix_means_nothing_in_64_bit_code) {
  Guest g;
  EXPECT_EQ(g.run({/* o16 call +1 */ 0x66, 0xe8, 1, 0, 0, 0, /* hlt */ 0xf4,
                   /* mov al, 1 */ 0xb0, 1, /* o16 ret */ 0x66, 0xc3}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 1U);
  EXPECT_EQ(g[kRsp], kStackTop);
}

TEST(BranchTest, loop_counts_by_address_size) {
  Guest wide;
  wide[kRcx] = 3;
  EXPECT_EQ(wide.run({/* again: inc eax; loop again */ 0xff, 0xc0, 0xe2, 0xfc}), Guest::kHalted);
  EXPECT_EQ(wide[kRax], 3U);

  Guest narrow;
  narrow[kRcx] = 0xffff'ffff'0000'0002;
  EXPECT_EQ(narrow.run({/* again: inc eax; a32 loop again */ 0xff, 0xc0, 0x67, 0xe2, 0xfb}),
            Guest::kHalted);
  EXPECT_EQ(narrow[kRax], 2U);
  EXPECT_EQ(narrow[kRcx], 0U);
}

TEST(BranchTest, loope_and_loopne_keep_flags) {
  Guest g;
  g[kRcx] = 5;
  g.set_flags(kZf | kCf);
  EXPECT_EQ(g.run({/* loope there; hlt; there: loopne back; or al, 1; hlt; back: or al, 2 */ 0xe1,
                   0x01, 0xf4, 0xe0, 0x03, 0x0c, 0x01, 0xf4, 0x0c, 0x02}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 3U);
  EXPECT_EQ(g[kRax], 1U);
}

TEST(BranchTest, jecxz_looks_at_32_bits) {
  Guest g;
  g[kRcx] = 0x1'0000'0000;
  EXPECT_EQ(g.run({/* jrcxz wrong; jecxz right; wrong: hlt; right: or al, 1 */ 0xe3, 0x03, 0x67,
                   0xe3, 0x01, 0xf4, 0x0c, 0x01}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 1U);
}

TEST(BranchTest, sixteen_bit_operand_size_cuts_eip) {
  Guest g(TestMode::Protected32);
  g.put<uint8_t>(0x5000, 0xf4);
  // At 0x10000: a relative jump by 0x4ffc from 0x10004 goes to 0x15000, cut to 0x5000.
  EXPECT_EQ(g.run({/* o16 jmp +0x4ffc */ 0x66, 0xe9, 0xfc, 0x4f}), Guest::kHalted);
  EXPECT_EQ(g.cpu().rip, 0x5001U);
}

TEST(BranchTest, sixteen_bit_call_pushes_two_bytes) {
  Guest g(TestMode::Real16);
  EXPECT_EQ(
      g.run({/* call f; hlt; f: pop ax; push ax; ret */ 0xe8, 0x01, 0x00, 0xf4, 0x58, 0x50, 0xc3}),
      Guest::kHalted);
  EXPECT_EQ(g[kRax], 3U);
  EXPECT_EQ(g[kRsp], kStackTop);
}

TEST(BranchTest, target_beyond_the_limit_faults_on_the_branch) {
  Guest g(TestMode::Real16);
  EXPECT_EQ(g.run({/* o32 jmp +0x10000 */ 0x66, 0xe9, 0, 0, 1, 0}), kGP);
  EXPECT_EQ(g.cpu().rip, 0U);
}

TEST(BranchTest, sixteen_bit_ip_wraps) {
  Guest g(TestMode::Real16);
  // From 3, back by 0x10 to 0xfff3.
  g.put<uint8_t>(kCode + 0xfff3, 0xf4);
  EXPECT_EQ(g.run({/* jmp -0x10 */ 0xe9, 0xf0, 0xff}), Guest::kHalted);
  EXPECT_EQ(g.cpu().rip, 0xfff4U);
}

}  // namespace
}  // namespace trapeze::soft
