#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

TEST(ShiftTest, count_zero_keeps_flags_but_clears_the_upper_half) {
  Guest g;
  g.set_flags(kCf | kOf | kZf);
  g[kRax] = g[kRbx] = 0x1111'1111'8000'0001;
  g[kRcx] = 0x20;  // 0 after masking to five bits
  EXPECT_EQ(g.run({/* shl eax, cl; shr rbx, 0 */ 0xd3, 0xe0, 0x48, 0xc1, 0xeb, 0x00}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x8000'0001U);
  EXPECT_EQ(g[kRbx], 0x1111'1111'8000'0001U);
  EXPECT_EQ(g.flags(), kCf | kOf | kZf);
}

TEST(ShiftTest, counts_are_masked_to_six_bits_for_64_bit_operands) {
  Guest g;
  g[kRax] = 1;
  g[kRcx] = 0x7f;
  EXPECT_EQ(g.run({/* shl rax, cl */ 0x48, 0xd3, 0xe0}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x8000'0000'0000'0000U);
}

TEST(ShiftTest, narrow_operand_is_shifted_out_entirely) {
  Guest g;
  g[kRax] = 0xaaff;
  g[kRbx] = 0x80;
  EXPECT_EQ(g.run({/* shl al, 20; sar bl, 31 */ 0xc0, 0xe0, 0x14, 0xc0, 0xfb, 0x1f}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xaa00U);
  EXPECT_EQ(g[kRbx], 0xffU);
  EXPECT_EQ(g.flags(kCf | kSf | kZf), kCf | kSf);
}

TEST(ShiftTest, shift_by_one_sets_carry_and_overflow) {
  Guest g;
  g[kRax] = 0xc000'0000;
  EXPECT_EQ(g.run({/* shl eax, 1 */ 0xd1, 0xe0}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x8000'0000U);
  EXPECT_EQ(g.flags(kCf | kOf | kSf | kZf | kPf), kCf | kSf | kPf);

  Guest overflow;
  overflow[kRax] = 0x4000'0000;
  EXPECT_EQ(overflow.run({/* shl eax, 1 */ 0xd1, 0xe0}), Guest::kHalted);
  EXPECT_EQ(overflow.flags(kCf | kOf), kOf);
}

TEST(ShiftTest, rotate_through_carry_by_more_than_the_width) {
  Guest g;
  g.set_flags(kCf);
  g[kRax] = 0x12;
  g[kRbx] = 0x1234;
  // RCL of 8 bits counts modulo 9, of 16 bits modulo 17: nothing moves, the carry stays.
  EXPECT_EQ(g.run({/* rcl al, 9; rcr bx, 17 */ 0xc0, 0xd0, 0x09, 0x66, 0xc1, 0xdb, 0x11}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x12U);
  EXPECT_EQ(g[kRbx], 0x1234U);
  EXPECT_EQ(g.flags(kCf), kCf);
}

TEST(ShiftTest, rotate_through_carry) {
  Guest g;
  g.set_flags(kCf | kZf | kSf | kPf);
  g[kRax] = 0x80;
  EXPECT_EQ(g.run({/* rcl al, 1 */ 0xd0, 0xd0}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x01U);
  EXPECT_EQ(g.flags(), kCf | kOf | kZf | kSf | kPf);  // all but CF and OF stay
}

TEST(ShiftTest, rotates_keep_the_other_flags) {
  Guest g;
  g.set_flags(kZf | kAf | kPf);
  g[kRax] = 0x8000'0000'0000'0001;
  EXPECT_EQ(g.run({/* ror rax, 4; rol rax, 8 */ 0x48, 0xc1, 0xc8, 0x04, 0x48, 0xc1, 0xc0, 0x08}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x18U);
  EXPECT_EQ(g.flags(kZf | kAf | kPf | kSf | kCf), kZf | kAf | kPf);
}

TEST(ShiftTest, memory_forms) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRcx] = 4;
  g.put<uint64_t>(Guest::kData, 0xffff'0000'8000'0010);
  EXPECT_EQ(g.run({/* shr dword [rbx], cl; sar word [rbx + 6], 8; rol byte [rbx + 4], 3; shl byte
                      [rbx], 1 */
                   0xd3,
                   0x2b, 0x66, 0xc1, 0x7b, 0x06, 0x08, 0xc0, 0x43, 0x04, 0x03, 0xd0, 0x23}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), 0xffff'0000'0800'0002U);
}

TEST(ShiftTest, double_shifts) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 0x1234'5678;
  g[kRdx] = 0x9abc'def0'1122'3344;
  g[kRcx] = 8;
  g.put<uint64_t>(Guest::kData, 0xffff'ffff'0000'0000);
  EXPECT_EQ(g.run({/* shld eax, edx, 8; shrd [rbx], rdx, cl; shld rdx, rax, 64 */ 0x0f, 0xa4, 0xd0,
                   0x08, 0x48, 0x0f, 0xad, 0x13, 0x48, 0x0f, 0xa4, 0xc2, 0x40}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x3456'7811U);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), 0x44ff'ffff'ff00'0000U);
  EXPECT_EQ(g[kRdx], 0x9abc'def0'1122'3344U);
}

}  // namespace
}  // namespace trapeze::soft
