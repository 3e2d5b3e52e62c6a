
#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kData = Guest::kData;

TEST(CmpxchgTest, match_stores_the_source) {
  Guest g;
  g[kRbx] = kData;
  g[kRax] = 0xffff'ffff'0000'0007;
  g[kRcx] = 9;
  g.put<uint64_t>(kData, 0x1111'1111'0000'0007);
  EXPECT_EQ(g.run({/* lock cmpxchg [rbx], ecx */ 0xf0, 0x0f, 0xb1, 0x0b}), Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kData), 0x1111'1111'0000'0009U);
  EXPECT_EQ(g[kRax], 0xffff'ffff'0000'0007U);
  EXPECT_EQ(g.flags(), kZf | kPf);
}

TEST(CmpxchgTest, mismatch_loads_the_accumulator) {
  Guest g;
  g[kRbx] = kData;
  g[kRax] = 0xffff'ffff'0000'0001;
  g[kRcx] = 9;
  g.put<uint32_t>(kData, 2);
  EXPECT_EQ(g.run({/* cmpxchg [rbx], ecx */ 0x0f, 0xb1, 0x0b}), Guest::kHalted);
  EXPECT_EQ(g.get<uint32_t>(kData), 2U);
  EXPECT_EQ(g[kRax], 2U);
  EXPECT_EQ(g.flags(kZf | kCf | kSf), kCf | kSf);  // 1 - 2
}

TEST(CmpxchgTest, register_forms) {
  Guest g;
  g[kRax] = 0x12;
  g[kRcx] = 0x3412;
  g[kRdx] = 0x77;
  EXPECT_EQ(g.run({/* cmpxchg cl, dl; cmpxchg ch, dl */ 0x0f, 0xb0, 0xd1, 0x0f, 0xb0, 0xd5}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x3477U);
  EXPECT_EQ(g[kRax], 0x34U);
}

TEST(CmpxchgTest, mismatch_leaves_a_32_bit_register_whole) {
  Guest g;
  g[kRax] = 0x1111'1111'0000'0001;
  g[kRcx] = 0x2222'2222'0000'0002;
  EXPECT_EQ(g.run({/* cmpxchg ecx, edx */ 0x0f, 0xb1, 0xd1}), Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x2222'2222'0000'0002U);
  EXPECT_EQ(g[kRax], 2U);
}

// The write is done in both cases, so a mismatch on a page that cannot be written faults too.
TEST(CmpxchgTest, mismatch_on_a_read_only_page_faults) {
  Guest g;
  g.put<uint64_t>(0x3000 + 8, 0x20'0085);  // not writable
  g[kRbx] = kData;
  g[kRax] = 1;
  EXPECT_EQ(g.run({/* cmpxchg [rbx], rcx */ 0x48, 0x0f, 0xb1, 0x0b}), kPF);
  EXPECT_EQ(g.cpu().fault.error_code, 3U);
  EXPECT_EQ(g[kRax], 1U);
}

TEST(CmpxchgTest, cmpxchg8b) {
  Guest g;
  g[kRsi] = kData;
  g[kRax] = 0xffff'ffff'0000'0002;
  g[kRdx] = 1;
  g[kRbx] = 0x33;
  g[kRcx] = 0x44;
  g.set_flags(kCf | kOf | kSf);
  g.put<uint64_t>(kData, 0x1'0000'0002);
  EXPECT_EQ(g.run({/* lock cmpxchg8b [rsi] */ 0xf0, 0x0f, 0xc7, 0x0e}), Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kData), 0x44'0000'0033U);
  EXPECT_EQ(g[kRax], 0xffff'ffff'0000'0002U);
  EXPECT_EQ(g.flags(), kCf | kOf | kSf | kZf);
  EXPECT_EQ(g.again(), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x33U);
  EXPECT_EQ(g[kRdx], 0x44U);
  EXPECT_EQ(g.flags(kZf), 0U);
}

TEST(CmpxchgTest, cmpxchg16b) {
  Guest g;
  g[kRsi] = kData;
  g[kRax] = 5;
  g[kRdx] = 6;
  g[kRbx] = 7;
  g[kRcx] = 8;
  g.put<uint64_t>(kData, 5);
  g.put<uint64_t>(kData + 8, 6);
  EXPECT_EQ(g.run({/* lock cmpxchg16b [rsi] */ 0xf0, 0x48, 0x0f, 0xc7, 0x0e}), Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kData), 7U);
  EXPECT_EQ(g.get<uint64_t>(kData + 8), 8U);
  EXPECT_EQ(g.flags(kZf), kZf);
  EXPECT_EQ(g.again(), Guest::kHalted);
  EXPECT_EQ(g[kRax], 7U);
  EXPECT_EQ(g[kRdx], 8U);
  EXPECT_EQ(g.flags(kZf), 0U);
}

TEST(CmpxchgTest, cmpxchg16b_must_be_aligned) {
  Guest g;
  g[kRsi] = kData + 8;
  EXPECT_EQ(g.run({/* cmpxchg16b [rsi] */ 0x48, 0x0f, 0xc7, 0x0e}), kGP);
}

TEST(CmpxchgTest, xadd) {
  Guest g;
  g[kRbx] = kData;
  g[kRax] = 0xffff'ffff'0000'0001;
  g[kRcx] = 0x80;
  g.put<uint32_t>(kData, 0xffff'ffff);
  EXPECT_EQ(
      g.run({/* lock xadd [rbx], eax; xadd cl, cl */ 0xf0, 0x0f, 0xc1, 0x03, 0x0f, 0xc0, 0xc9}),
      Guest::kHalted);
  EXPECT_EQ(g.get<uint32_t>(kData), 0U);
  EXPECT_EQ(g[kRax], 0xffff'ffffU);
  EXPECT_EQ(g[kRcx], 0U);
  EXPECT_EQ(g.flags(kCf | kZf | kOf), kCf | kZf | kOf);
}

TEST(CmpxchgTest, faulting_xadd_changes_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRbx] = Guest::kUnmapped;
  g[kRax] = 3;
  g.set_flags(kCf);
  EXPECT_EQ(g.run({/* xadd [rbx], eax */ 0x0f, 0xc1, 0x03}), kPF);
  EXPECT_EQ(g[kRax], 3U);
  EXPECT_EQ(g.flags(), kCf);
}

}  // namespace
}  // namespace trapeze::soft
