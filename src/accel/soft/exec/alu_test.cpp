#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

TEST(AluTest, add_overflow_and_no_carry) {
  Guest g;
  g[kRax] = 0x7fff'ffff'ffff'ffff;
  g[kRbx] = 1;
  EXPECT_EQ(g.run({/* add rax, rbx */ 0x48, 0x01, 0xd8}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x8000'0000'0000'0000U);
  EXPECT_EQ(g.flags(), kOf | kSf | kAf | kPf);
}

TEST(AluTest, add_32_bits_clears_upper_half_and_carries) {
  Guest g;
  g[kRax] = 0xdead'beef'ffff'ffff;
  EXPECT_EQ(g.run({/* add eax, 1 */ 0x83, 0xc0, 0x01}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0U);
  EXPECT_EQ(g.flags(), kCf | kZf | kAf | kPf);
}

TEST(AluTest, add_16_and_8_bits_keep_the_rest) {
  Guest g;
  g[kRax] = 0x1111'1111'1111'ffff;
  g[kRcx] = 0x2222'2222'2222'22ff;
  EXPECT_EQ(g.run({/* add ax, 1; add cl, 1 */ 0x66, 0x83, 0xc0, 0x01, 0x80, 0xc1, 0x01}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x1111'1111'1111'0000U);
  EXPECT_EQ(g[kRcx], 0x2222'2222'2222'2200U);
}

TEST(AluTest, high_bytes_without_rex_and_low_bytes_with) {
  Guest g;
  g[kRax] = 0x1234;
  g[kRsi] = 0x40;
  EXPECT_EQ(g.run({/* add ah, al; add sil, al */ 0x00, 0xc4, 0x40, 0x00, 0xc6}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x4634U);
  EXPECT_EQ(g[kRsi], 0x74U);
}

TEST(AluTest, adc_and_sbb_take_the_carry) {
  Guest g;
  g[kRax] = ~uint64_t{0};
  g[kRdx] = 5;
  g[kRbx] = 0;
  EXPECT_EQ(g.run({/* add rax, 1; adc rdx, 0; cmp rbx, 1; sbb rcx, rcx */ 0x48, 0x83, 0xc0, 0x01,
                   0x48, 0x83, 0xd2, 0x00, 0x48, 0x83, 0xfb, 0x01, 0x48, 0x19, 0xc9}),
            Guest::kHalted);
  EXPECT_EQ(g[kRdx], 6U);
  EXPECT_EQ(g[kRcx], ~uint64_t{0});
  EXPECT_EQ(g.flags(kCf | kZf | kSf), kCf | kSf);
}

TEST(AluTest, adc_ignores_other_flags) {
  Guest g;
  g.set_flags(kZf | kOf | kSf);
  g[kRax] = 1;
  EXPECT_EQ(g.run({/* adc eax, 1 */ 0x83, 0xd0, 0x01}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 2U);
  EXPECT_EQ(g.flags(), 0U);
}

TEST(AluTest, inc_and_dec_keep_carry) {
  Guest g;
  g.set_flags(kCf);
  g[kRax] = 0xffff'ffff;
  g[kRbx] = 0x80;
  EXPECT_EQ(g.run({/* inc eax; dec bl */ 0xff, 0xc0, 0xfe, 0xcb}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0U);
  EXPECT_EQ(g[kRbx], 0x7fU);
  EXPECT_EQ(g.flags(), kCf | kOf | kAf);
}

TEST(AluTest, neg_sets_carry_unless_zero) {
  Guest zero;
  zero.set_flags(kCf);
  EXPECT_EQ(zero.run({/* neg rax */ 0x48, 0xf7, 0xd8}), Guest::kHalted);
  EXPECT_EQ(zero.flags(), kZf | kPf);

  Guest lowest;
  lowest[kRax] = 0x8000;
  EXPECT_EQ(lowest.run({/* neg ax */ 0x66, 0xf7, 0xd8}), Guest::kHalted);
  EXPECT_EQ(lowest[kRax], 0x8000U);
  EXPECT_EQ(lowest.flags(), kCf | kOf | kSf | kPf);
}

TEST(AluTest, not_keeps_flags) {
  Guest g;
  g.set_flags(kCf | kZf);
  g[kRax] = 0xff00'0000'0f0f'0f0f;
  EXPECT_EQ(g.run({/* not eax */ 0xf7, 0xd0}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xf0f0'f0f0U);
  EXPECT_EQ(g.flags(), kCf | kZf);
}

TEST(AluTest, cmp_and_test_write_nothing) {
  Guest g;
  g[kRax] = 0xff00'0000'0000'0005;
  g[kRbx] = 7;
  EXPECT_EQ(g.run({/* cmp eax, ebx */ 0x39, 0xd8}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xff00'0000'0000'0005U);
  EXPECT_EQ(g.flags(), kCf | kSf | kAf);
}

TEST(AluTest, test_immediate_is_sign_extended) {
  Guest g;
  g.set_flags(kCf | kOf);
  g[kRax] = 0x8000'0000'0000'0000;
  EXPECT_EQ(g.run({/* test rax, -0x80000000 */ 0x48, 0xa9, 0x00, 0x00, 0x00, 0x80}),
            Guest::kHalted);
  EXPECT_EQ(g.flags(kCf | kOf | kSf | kZf), kSf);
}

TEST(AluTest, immediates_are_sign_extended) {
  Guest g;
  g[kRax] = 5;
  g[kRbx] = 0x1'0000'0000;
  g[kRcx] = 0x10;
  EXPECT_EQ(g.run({/* add rax, -6; and rbx, -0x80000000; sub cx, 0x20 */ 0x48, 0x83, 0xc0, 0xfa,
                   0x48, 0x81, 0xe3, 0x00, 0x00, 0x00, 0x80, 0x66, 0x83, 0xe9, 0x20}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], ~uint64_t{0});
  EXPECT_EQ(g[kRbx], 0x1'0000'0000U);
  EXPECT_EQ(g[kRcx], 0xfff0U);
}

TEST(AluTest, memory_forms_with_base_index_and_rip) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRcx] = 3;
  g[kRax] = 10;
  g.put<uint64_t>(Guest::kData + 0x10 + 24, 32);
  g.put<uint32_t>(Guest::kData + 0x100, 0xffff'fffe);
  g.put<uint16_t>(Guest::kData + 0x200, 0x8000);
  EXPECT_EQ(g.run({/* add rax, [rbx + rcx*8 + 0x10]; add dword [rbx + 0x100], 3; sub [rbx + rcx +
                      0x1fd], cx; or byte [rel $ + 0x1f0000], 0x81 */
                   0x48,
                   0x03,
                   0x44,
                   0xcb,
                   0x10,
                   0x83,
                   0x83,
                   0x00,
                   0x01,
                   0x00,
                   0x00,
                   0x03,
                   0x66,
                   0x29,
                   0x8c,
                   0x0b,
                   0xfd,
                   0x01,
                   0x00,
                   0x00,
                   0x80,
                   0x0d,
                   0xf9,
                   0xff,
                   0x1e,
                   0x00,
                   0x81}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 42U);
  EXPECT_EQ(g.get<uint32_t>(Guest::kData + 0x100), 1U);
  EXPECT_EQ(g.get<uint16_t>(Guest::kData + 0x200), 0x7ffdU);
  EXPECT_EQ(g.get<uint8_t>(TestMachine::kCode + 20 + 0x1f0000), 0x81U);
}

TEST(AluTest, locked_forms) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 2;
  g.set_flags(kCf);
  g.put<uint64_t>(Guest::kData, 40);
  g.put<uint32_t>(Guest::kData + 9, 7);  // not aligned
  EXPECT_EQ(
      g.run({/* lock adc [rbx], rax; lock dec dword [rbx + 9]; lock not byte [rbx + 16] */ 0xf0,
             0x48, 0x11, 0x03, 0xf0, 0xff, 0x4b, 0x09, 0xf0, 0xf6, 0x53, 0x10}),
      Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), 43U);
  EXPECT_EQ(g.get<uint32_t>(Guest::kData + 9), 6U);
  EXPECT_EQ(g.get<uint8_t>(Guest::kData + 16), 0xffU);
}

TEST(AluTest, lock_on_register_is_undefined) {
  Guest g;
  EXPECT_EQ(g.run({0xf0, 0x01, 0xd8}), kUD);
}

TEST(AluTest, access_across_pages) {
  Guest g;
  g[kRbx] = Guest::kData + 0xffd;
  g.put<uint64_t>(Guest::kData + 0xffd, 0x0123'4567'89ab'cdef);
  EXPECT_EQ(g.run({/* add qword [rbx], 0x11; mov rax, [rbx]; lock add qword [rbx], 1 */ 0x48, 0x83,
                   0x03, 0x11, 0x48, 0x8b, 0x03, 0xf0, 0x48, 0x83, 0x03, 0x01}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x0123'4567'89ab'ce00U);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData + 0xffd), 0x0123'4567'89ab'ce01U);
}

TEST(AluTest, fault_on_second_half_changes_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRbx] = Guest::kUnmapped - 2;
  g[kRax] = ~uint64_t{0};
  g.set_flags(kZf | kPf);
  g.put<uint16_t>(Guest::kUnmapped - 2, 0x1234);
  EXPECT_EQ(g.run({/* add [rbx], eax */ 0x01, 0x03}), kPF);
  EXPECT_EQ(g.cpu().fault.cr2, Guest::kUnmapped);
  EXPECT_EQ(g.cpu().fault.error_code, 2U);
  EXPECT_EQ(g.get<uint16_t>(Guest::kUnmapped - 2), 0x1234U);
  EXPECT_EQ(g.flags(), kZf | kPf);
  EXPECT_EQ(g.cpu().rip, TestMachine::kCode);
}

TEST(AluTest, non_canonical_address_is_gp_and_ss_for_the_stack) {
  Guest data;
  data[kRbx] = 0x8000'0000'0000;
  EXPECT_EQ(data.run({/* add rax, [rbx] */ 0x48, 0x03, 0x03}), kGP);
  Guest stack;
  stack[kRbp] = 0x8000'0000'0000;
  EXPECT_EQ(stack.run({/* add rax, [rbp] */ 0x48, 0x03, 0x45, 0x00}), kSS);
}

TEST(AluTest, segment_base_and_address_size) {
  Guest g;
  g.cpu().linear_base[kGs] = Guest::kData;
  g.cpu().seg[kGs].base = Guest::kData;
  g[kRbx] = 0xffff'ffff'0000'0008;
  g.put<uint32_t>(Guest::kData + 0x18, 77);
  EXPECT_EQ(g.run({/* add eax, [gs:ebx + 0x10] */ 0x65, 0x67, 0x03, 0x43, 0x10}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 77U);
}

TEST(AluTest, sixteen_bit_code_wraps_addresses) {
  Guest g(TestMode::Real16);
  g[kRbx] = 0xfff0;
  g[kRsi] = 0x20;
  g[kRax] = 1;
  g.put<uint16_t>(0x10, 41);
  EXPECT_EQ(g.run({/* add ax, [bx + si] */ 0x03, 0x00}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 42U);
}

}  // namespace
}  // namespace trapeze::soft
