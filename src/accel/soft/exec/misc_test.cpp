#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

TEST(MiscTest, sign_extension_of_the_accumulator) {
  Guest g;
  g[kRax] = 0x1111'1111'1111'1180;
  EXPECT_EQ(g.run({/* cbw; mov rbx, rax; cwde; mov rcx, rax; cdqe; mov rdx, 5; cqo; mov rsi, rdx;
                      mov ax, 1; cwd; mov rdi, rdx; cdq */
                   0x66,
                   0x98,
                   0x48,
                   0x89,
                   0xc3,
                   0x98,
                   0x48,
                   0x89,
                   0xc1,
                   0x48,
                   0x98,
                   0xba,
                   0x05,
                   0x00,
                   0x00,
                   0x00,
                   0x48,
                   0x99,
                   0x48,
                   0x89,
                   0xd6,
                   0x66,
                   0xb8,
                   0x01,
                   0x00,
                   0x66,
                   0x99,
                   0x48,
                   0x89,
                   0xd7,
                   0x99}),
            Guest::kHalted);
  EXPECT_EQ(g[kRbx], 0x1111'1111'1111'ff80U);
  EXPECT_EQ(g[kRcx], 0xffff'ff80U);
  EXPECT_EQ(g[kRsi], ~uint64_t{0});
  EXPECT_EQ(g[kRdi], 0xffff'ffff'ffff'0000U);
  EXPECT_EQ(g[kRax], 0xffff'ffff'ffff'0001U);
  EXPECT_EQ(g[kRdx], 0xffff'ffffU);
}

TEST(MiscTest, lahf_and_sahf) {
  Guest g;
  g.set_flags(kCf | kZf | kOf);
  g[kRbx] = 0xff00;
  EXPECT_EQ(
      g.run({/* lahf; mov ecx, eax; mov eax, ebx; sahf */ 0x9f, 0x89, 0xc1, 0x89, 0xd8, 0x9e}),
      Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x4300U);  // ZF, bit 1, CF
  EXPECT_EQ(g.flags(), kCf | kPf | kAf | kZf | kSf | kOf);
}

TEST(MiscTest, salc_outside_64_bit_mode_only) {
  Guest g(TestMode::Protected32);
  g.set_flags(kCf | kZf);
  g[kRax] = 0x1234;
  EXPECT_EQ(g.run({/* salc; mov ebx, eax; clc; salc */ 0xd6, 0x89, 0xc3, 0xf8, 0xd6}),
            Guest::kHalted);
  EXPECT_EQ(g[kRbx], 0x12ffU);
  EXPECT_EQ(g[kRax], 0x1200U);
  EXPECT_EQ(g.flags(), kZf);
  Guest g64;
  EXPECT_EQ(g64.run({0xd6}), kUD);
}

TEST(MiscTest, carry_instructions) {
  Guest g;
  g.set_flags(kZf);
  g[kRdx] = 0;
  EXPECT_EQ(g.run({/* stc; setc al; cmc; setc bl; cmc; setc cl; clc; setc dl */ 0xf9, 0x0f, 0x92,
                   0xc0, 0xf5, 0x0f, 0x92, 0xc3, 0xf5, 0x0f, 0x92, 0xc1, 0xf8, 0x0f, 0x92, 0xc2}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 1U);
  EXPECT_EQ(g[kRbx], 0U);
  EXPECT_EQ(g[kRcx], 1U);
  EXPECT_EQ(g[kRdx], 0U);
  EXPECT_EQ(g.flags(), kZf);
}

TEST(MiscTest, direction_flag_is_in_rflags) {
  Guest g;
  EXPECT_EQ(g.run({/* std */ 0xfd}), Guest::kHalted);
  EXPECT_NE(rflags(g.cpu()) & kDf, 0U);
  EXPECT_TRUE(g.cpu().df);
  Guest clear;
  EXPECT_EQ(clear.run({/* std; cld */ 0xfd, 0xfc}), Guest::kHalted);
  EXPECT_EQ(rflags(clear.cpu()) & kDf, 0U);
  EXPECT_FALSE(clear.cpu().df);
}

TEST(MiscTest, hints_do_nothing) {
  Guest g;
  g[kRbx] = 0x8000'0000'0000;  // hints never fault
  g.set_flags(kCf);
  EXPECT_EQ(g.run({/* nop; nop dword [rbx]; pause; prefetchnta [rbx]; prefetcht0 [rbx]; db 0xf3,
                      0x0f, 0x1e, 0xfa; lfence; sfence; mfence */
                   0x90,
                   0x0f,
                   0x1f,
                   0x03,
                   0xf3,
                   0x90,
                   0x0f,
                   0x18,
                   0x03,
                   0x0f,
                   0x18,
                   0x0b,
                   0xf3,
                   0x0f,
                   0x1e,
                   0xfa,
                   0x0f,
                   0xae,
                   0xe8,
                   0x0f,
                   0xae,
                   0xf8,
                   0x0f,
                   0xae,
                   0xf0}),
            Guest::kHalted);
  EXPECT_EQ(g.flags(), kCf);
}

TEST(MiscTest, clflush_checks_its_address) {
  Guest good;
  good[kRbx] = Guest::kData;
  EXPECT_EQ(good.run({/* clflush [rbx] */ 0x0f, 0xae, 0x3b}), Guest::kHalted);
  Guest bad;
  bad.unmap_behind_data();
  bad[kRbx] = Guest::kUnmapped;
  EXPECT_EQ(bad.run({/* clflush [rbx] */ 0x0f, 0xae, 0x3b}), kPF);
  EXPECT_EQ(bad.cpu().fault.error_code, 0U);
}

TEST(MiscTest, bound) {
  Guest in(TestMode::Protected32);
  in.put<uint32_t>(Guest::kData, static_cast<uint32_t>(-5));
  in.put<uint32_t>(Guest::kData + 4, 5);
  in[kRax] = static_cast<uint32_t>(-5);
  in[kRcx] = 5;
  EXPECT_EQ(in.run({/* bound eax, [0x200000]; bound ecx, [0x200000] */ 0x62, 0x05, 0x00, 0x00, 0x20,
                    0x00, 0x62, 0x0d, 0x00, 0x00, 0x20, 0x00}),
            Guest::kHalted);
  Guest out(TestMode::Protected32);
  out.put<uint16_t>(Guest::kData + 2, 7);
  out[kRax] = 8;
  EXPECT_EQ(out.run({/* bound ax, [0x200000] */ 0x66, 0x62, 0x05, 0x00, 0x00, 0x20, 0x00}), kBR);
}

TEST(MiscTest, undefined_instructions) {
  Guest ud2;
  EXPECT_EQ(ud2.run({/* ud2 */ 0x0f, 0x0b}), kUD);
  Guest ud1;
  EXPECT_EQ(ud1.run({/* ud1 eax, eax */ 0x0f, 0xb9, 0xc0}), kUD);
  EXPECT_EQ(ud1.cpu().rip, TestMachine::kCode);
}

TEST(MiscTest, movnti) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 0x1122'3344'5566'7788;
  EXPECT_EQ(g.run({/* movnti [rbx], eax; movnti [rbx + 8], rax */ 0x0f, 0xc3, 0x03, 0x48, 0x0f,
                   0xc3, 0x43, 0x08}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), 0x5566'7788U);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData + 8), 0x1122'3344'5566'7788U);
}

}  // namespace
}  // namespace trapeze::soft
