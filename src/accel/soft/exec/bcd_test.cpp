#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

// Adds or subtracts two packed BCD numbers of two digits and adjusts, for all of them.
TEST(BcdTest, daa_and_das_over_all_two_digit_numbers) {
  Guest add(TestMode::Protected32);
  ASSERT_EQ(add.run({/* add al, cl; daa */ 0x00, 0xc8, 0x27}), Guest::kHalted);
  Guest sub(TestMode::Protected32);
  ASSERT_EQ(sub.run({/* sub al, cl; das */ 0x28, 0xc8, 0x2f}), Guest::kHalted);
  const auto packed = [](unsigned n) { return uint64_t{n / 10 % 10 * 16 + n % 10}; };
  for (unsigned a = 0; a < 100; ++a) {
    for (unsigned b = 0; b < 100; ++b) {
      add[kRax] = packed(a);
      add[kRcx] = packed(b);
      ASSERT_EQ(add.again(), Guest::kHalted);
      EXPECT_EQ(add[kRax], packed(a + b)) << a << " + " << b;
      EXPECT_EQ(add.flags(kCf) != 0, a + b > 99) << a << " + " << b;
      sub[kRax] = packed(a);
      sub[kRcx] = packed(b);
      ASSERT_EQ(sub.again(), Guest::kHalted);
      EXPECT_EQ(sub[kRax], packed(100 + a - b)) << a << " - " << b;
      EXPECT_EQ(sub.flags(kCf) != 0, a < b) << a << " - " << b;
    }
  }
}

TEST(BcdTest, daa_example_of_the_manual) {
  Guest g(TestMode::Protected32);
  g[kRax] = 0x79;
  g[kRbx] = 0x35;
  EXPECT_EQ(g.run({/* add al, bl; daa */ 0x00, 0xd8, 0x27}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x14U);
  EXPECT_EQ(g.flags(kCf | kAf | kZf | kSf | kPf), kCf | kAf | kPf);
}

TEST(BcdTest, das_borrow_of_the_low_digit_sets_carry) {
  Guest g(TestMode::Protected32);
  g[kRax] = 0x03;
  g.set_flags(kAf);
  EXPECT_EQ(g.run({/* das */ 0x2f}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xfdU);
  EXPECT_EQ(g.flags(kCf | kAf | kSf), kCf | kAf | kSf);
}

TEST(BcdTest, aaa_and_aas) {
  Guest up(TestMode::Protected32);
  up[kRax] = 0x02fb;
  EXPECT_EQ(up.run({/* aaa */ 0x37}), Guest::kHalted);
  EXPECT_EQ(up[kRax], 0x0401U);  // AX + 0x106 carries into AH
  EXPECT_EQ(up.flags(kCf | kAf), kCf | kAf);

  Guest down(TestMode::Protected32);
  down[kRax] = 0x0205;
  down.set_flags(kAf);
  EXPECT_EQ(down.run({/* aas */ 0x3f}), Guest::kHalted);
  EXPECT_EQ(down[kRax], 0x000fU);  // AX - 0x106 borrows from AH
  EXPECT_EQ(down.flags(kCf | kAf), kCf | kAf);

  Guest none(TestMode::Protected32);
  none[kRax] = 0x0319;
  none.set_flags(kCf);
  EXPECT_EQ(none.run({/* aaa */ 0x37}), Guest::kHalted);
  EXPECT_EQ(none[kRax], 0x0309U);
  EXPECT_EQ(none.flags(kCf | kAf), 0U);
}

TEST(BcdTest, aam_and_aad) {
  Guest g(TestMode::Protected32);
  g[kRax] = 0xff3f;
  EXPECT_EQ(g.run({/* aam; mov ecx, eax; aad; mov edx, eax; aam 16 */ 0xd4, 0x0a, 0x89, 0xc1, 0xd5,
                   0x0a, 0x89, 0xc2, 0xd4, 0x10}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x0603U);
  EXPECT_EQ(g[kRdx], 0x003fU);
  EXPECT_EQ(g[kRax], 0x030fU);
}

TEST(BcdTest, aad_has_the_flags_of_its_addition) {
  Guest g(TestMode::Protected32);
  g[kRax] = 0x0106;
  EXPECT_EQ(g.run({/* aad */ 0xd5, 0x0a}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x10U);
  EXPECT_EQ(g.flags(), kAf);
}

TEST(BcdTest, aam_by_zero) {
  Guest g(TestMode::Protected32);
  g[kRax] = 0x1234;
  EXPECT_EQ(g.run({/* aam 0 */ 0xd4, 0}), kDE);
  EXPECT_EQ(g[kRax], 0x1234U);
}

TEST(BcdTest, not_in_64_bit_mode) {
  for (const unsigned opcode : {0x27U, 0x2fU, 0x37U, 0x3fU, 0xd4U, 0xd5U}) {
    Guest g;
    EXPECT_EQ(g.run({static_cast<uint8_t>(opcode), 10}), kUD) << opcode;
  }
}

}  // namespace
}  // namespace trapeze::soft
