#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

TEST(MulDivTest, mul_writes_both_halves) {
  Guest g;
  g[kRax] = ~uint64_t{0};
  g[kRbx] = ~uint64_t{0};
  EXPECT_EQ(g.run({/* mul rbx */ 0x48, 0xf7, 0xe3}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 1U);
  EXPECT_EQ(g[kRdx], ~uint64_t{1});
  EXPECT_EQ(g.flags(kCf | kOf), kCf | kOf);
}

TEST(MulDivTest, mul_by_width) {
  Guest g;
  g[kRax] = 0x1111'1111'0000'0210;
  g[kRdx] = 0x2222'2222'2222'2222;
  g[kRcx] = 0x10;
  EXPECT_EQ(g.run({/* mul cl; mov rsi, rax; mul cx; mov rdi, rdx; mul ecx */ 0xf6, 0xe1, 0x48, 0x89,
                   0xc6, 0x66, 0xf7, 0xe1, 0x48, 0x89, 0xd7, 0xf7, 0xe1}),
            Guest::kHalted);
  EXPECT_EQ(g[kRsi], 0x1111'1111'0000'0100U);
  EXPECT_EQ(g[kRdi], 0x2222'2222'2222'0000U);
  EXPECT_EQ(g[kRax], 0x1'0000U);
  EXPECT_EQ(g[kRdx], 0U);
  EXPECT_EQ(g.flags(kCf | kOf), 0U);
}

TEST(MulDivTest, imul_one_operand_signed) {
  Guest g;
  g[kRax] = 0xfe;
  g[kRbx] = 3;
  EXPECT_EQ(g.run({/* imul bl */ 0xf6, 0xeb}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xfffaU);
  EXPECT_EQ(g.flags(kCf | kOf), 0U);
}

TEST(MulDivTest, imul_two_and_three_operands) {
  Guest g;
  g[kRax] = 0x7fff'ffff;
  g[kRbx] = Guest::kData;
  g[kRcx] = 7;
  g.put<uint32_t>(Guest::kData, 5);
  EXPECT_EQ(
      g.run({/* imul rcx, rcx, -3; imul edx, [rbx], 1000; imul si, cx, 2; imul eax, [rbx] */ 0x48,
             0x6b, 0xc9, 0xfd, 0x69, 0x13, 0xe8, 0x03, 0x00, 0x00, 0x66, 0x6b, 0xf1, 0x02, 0x0f,
             0xaf, 0x03}),
      Guest::kHalted);
  EXPECT_EQ(g[kRcx], static_cast<uint64_t>(-21));
  EXPECT_EQ(g[kRdx], 5000U);
  EXPECT_EQ(g[kRsi], 0xffd6U);
  EXPECT_EQ(g[kRax], 0x7fff'fffbU);
  EXPECT_EQ(g.flags(kCf | kOf), kCf | kOf);
}

TEST(MulDivTest, div_and_idiv_results) {
  Guest g;
  g[kRax] = 100;
  g[kRdx] = 0;
  g[kRcx] = 7;
  EXPECT_EQ(g.run({/* div rcx; mov rsi, rax; mov rdi, rdx; mov rax, -100; cqo; idiv rcx */ 0x48,
                   0xf7,
                   0xf1,
                   0x48,
                   0x89,
                   0xc6,
                   0x48,
                   0x89,
                   0xd7,
                   0x48,
                   0xc7,
                   0xc0,
                   0x9c,
                   0xff,
                   0xff,
                   0xff,
                   0x48,
                   0x99,
                   0x48,
                   0xf7,
                   0xf9}),
            Guest::kHalted);
  EXPECT_EQ(g[kRsi], 14U);
  EXPECT_EQ(g[kRdi], 2U);
  EXPECT_EQ(g[kRax], static_cast<uint64_t>(-14));
  EXPECT_EQ(g[kRdx], static_cast<uint64_t>(-2));
}

TEST(MulDivTest, div_of_8_bits_uses_ax) {
  Guest g;
  g[kRax] = 0x1'0203;
  g[kRcx] = 0x10;
  EXPECT_EQ(g.run({/* div cl */ 0xf6, 0xf1}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x1'0320U);
}

struct DivideCase {
  bool is_signed;
  unsigned bytes;
  uint64_t high, low, divisor;
  bool faults;
  uint64_t quotient, remainder;
};
class DivideTest : public testing::TestWithParam<DivideCase> {};

TEST_P(DivideTest, edge) {
  const DivideCase& c = GetParam();
  Guest g;
  g[kRax] = c.bytes == 1 ? (c.high << 8 | c.low) : c.low;
  g[kRdx] = c.bytes == 1 ? 0 : c.high;
  g[kRcx] = c.divisor;
  g.set_flags(kCf | kZf);
  const uint8_t prefix = c.bytes == 2 ? 0x66 : c.bytes == 8 ? 0x48 : 0x3e;  // 3e: without effect
  const uint8_t opcode = c.bytes == 1 ? 0xf6 : 0xf7;
  const uint8_t modrm = c.is_signed ? 0xf9 : 0xf1;
  const uint64_t rax = g[kRax];
  const uint64_t rdx = g[kRdx];
  const int result = g.run({prefix, opcode, modrm});
  if (c.faults) {
    EXPECT_EQ(result, kDE);
    EXPECT_EQ(g[kRax], rax);
    EXPECT_EQ(g[kRdx], rdx);
    EXPECT_EQ(g.cpu().rip, TestMachine::kCode);
    return;
  }
  ASSERT_EQ(result, Guest::kHalted);
  EXPECT_EQ(g[kRax], c.bytes == 1 ? (c.remainder << 8 | c.quotient) : c.quotient);
  EXPECT_EQ(g[kRdx], c.bytes == 1 ? 0 : c.remainder);
}

constexpr uint64_t kMin64 = 0x8000'0000'0000'0000;
INSTANTIATE_TEST_SUITE_P(
    edges, DivideTest,
    testing::Values(
        DivideCase{false, 1, 0, 5, 0, true, 0, 0}, DivideCase{false, 1, 1, 0, 1, true, 0, 0},
        DivideCase{false, 1, 0, 255, 1, false, 255, 0}, DivideCase{false, 2, 1, 0, 1, true, 0, 0},
        DivideCase{false, 2, 1, 0xffff, 2, false, 0xffff, 1},
        DivideCase{false, 4, 2, 0, 2, true, 0, 0},
        DivideCase{false, 4, 1, 0xffff'ffff, 2, false, 0xffff'ffff, 1},
        DivideCase{false, 8, 5, 0, 5, true, 0, 0}, DivideCase{false, 8, 0, 5, 0, true, 0, 0},
        DivideCase{false, 8, 1, ~0U, 2, false, 0x8000'0000'7fff'ffff, 1},
        // -128 is a quotient, 128 is not.
        DivideCase{true, 1, 0, 128, 0xff, false, 0x80, 0},
        DivideCase{true, 1, 0xff, 0x80, 0xff, true, 0, 0},
        DivideCase{true, 1, 0xff, 0x80, 1, false, 0x80, 0},
        DivideCase{true, 1, 0, 0x80, 1, true, 0, 0},
        DivideCase{true, 1, 0x80, 0x00, 0x80, true, 0, 0},
        DivideCase{true, 2, 0xffff, 0x8000, 0xffff, true, 0, 0},
        DivideCase{true, 4, 0x8000'0000, 0, 0xffff'ffff, true, 0, 0},
        DivideCase{true, 4, 0xffff'ffff, 0x8000'0000, 0xffff'ffff, true, 0, 0},
        DivideCase{true, 4, 0xffff'ffff, 0x8000'0000, 1, false, 0x8000'0000, 0},
        DivideCase{true, 4, 0, 7, 0xffff'fffe, false, 0xffff'fffd, 1},
        DivideCase{true, 8, ~uint64_t{0}, kMin64, ~uint64_t{0}, true, 0, 0},
        DivideCase{true, 8, ~uint64_t{0}, kMin64, 1, false, kMin64, 0},
        DivideCase{true, 8, kMin64, 0, ~uint64_t{0}, true, 0, 0},
        DivideCase{true, 8, kMin64, 0, kMin64, true, 0, 0},
        // 2^63 / -1 = -2^63 and (2^63 * 2^62 + 2^63 - 1) / 2^63 with a negative sign.
        DivideCase{true, 8, 0, kMin64, ~uint64_t{0}, false, kMin64, 0},
        DivideCase{true, 8, 0, 1, 0, true, 0, 0}));

}  // namespace
}  // namespace trapeze::soft
