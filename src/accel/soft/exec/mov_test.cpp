#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

TEST(MovTest, widths_of_register_writes) {
  Guest g;
  g[kRax] = g[kRbx] = g[kRcx] = 0x1111'1111'1111'1111;
  g[kRdx] = 0xaaaa'bbbb'cccc'dddd;
  EXPECT_EQ(g.run({/* mov eax, edx; mov bx, dx; mov ch, dl; mov rsi, rdx */ 0x89, 0xd0, 0x66, 0x89,
                   0xd3, 0x88, 0xd5, 0x48, 0x89, 0xd6}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xcccc'ddddU);
  EXPECT_EQ(g[kRbx], 0x1111'1111'1111'ddddU);
  EXPECT_EQ(g[kRcx], 0x1111'1111'1111'dd11U);
  EXPECT_EQ(g[kRsi], 0xaaaa'bbbb'cccc'ddddU);
}

TEST(MovTest, immediates) {
  Guest g;
  g[kRbx] = Guest::kData;
  EXPECT_EQ(g.run({/* mov rax, 0x123456789abcdef0; mov rcx, strict dword -2; mov edx, 0x80000000;
                      mov qword [rbx], -3; mov byte [rbx + 8], 0x80; mov ah, 0x55 */
                   0x48,
                   0xb8,
                   0xf0,
                   0xde,
                   0xbc,
                   0x9a,
                   0x78,
                   0x56,
                   0x34,
                   0x12,
                   0x48,
                   0xc7,
                   0xc1,
                   0xfe,
                   0xff,
                   0xff,
                   0xff,
                   0xba,
                   0x00,
                   0x00,
                   0x00,
                   0x80,
                   0x48,
                   0xc7,
                   0x03,
                   0xfd,
                   0xff,
                   0xff,
                   0xff,
                   0xc6,
                   0x43,
                   0x08,
                   0x80,
                   0xb4,
                   0x55}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x1234'5678'9abc'55f0U);
  EXPECT_EQ(g[kRcx], ~uint64_t{1});
  EXPECT_EQ(g[kRdx], 0x8000'0000U);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), ~uint64_t{2});
  EXPECT_EQ(g.get<uint64_t>(Guest::kData + 8), 0x80U);
}

TEST(MovTest, absolute_offsets_of_64_and_32_bits) {
  Guest g;
  g.put<uint64_t>(Guest::kData, 0x1122'3344'5566'7788);
  EXPECT_EQ(g.run({/* mov rax, [abs qword 0x200000] */ 0x48,
                   0xa1,
                   0,
                   0,
                   0x20,
                   0,
                   0,
                   0,
                   0,
                   0,
                   /* mov [abs qword 0x200010], ax */ 0x66,
                   0xa3,
                   0x10,
                   0,
                   0x20,
                   0,
                   0,
                   0,
                   0,
                   0,
                   /* mov al, [abs dword 0x200003] */ 0x67,
                   0xa0,
                   3,
                   0,
                   0x20,
                   0}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x1122'3344'5566'7755U);
  EXPECT_EQ(g.get<uint32_t>(Guest::kData + 0x10), 0x7788U);
}

TEST(MovTest, absolute_offset_with_segment_base) {
  Guest g;
  g.cpu().linear_base[kGs] = Guest::kData;
  g.cpu().seg[kGs].base = Guest::kData;
  g.put<uint32_t>(Guest::kData + 8, 99);
  EXPECT_EQ(g.run({/* mov eax, [gs:abs qword 8] */ 0x65, 0xa1, 8, 0, 0, 0, 0, 0, 0, 0}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 99U);
}

TEST(MovTest, absolute_offset_in_32_bit_code) {
  Guest g(TestMode::Protected32);
  g.put<uint32_t>(Guest::kData, 0xdead'beef);
  EXPECT_EQ(g.run({/* mov eax, [0x200000]; mov [0x200008], al */ 0xa1, 0x00, 0x00, 0x20, 0x00, 0xa2,
                   0x08, 0x00, 0x20, 0x00}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xdead'beefU);
  EXPECT_EQ(g.get<uint32_t>(Guest::kData + 8), 0xefU);
}

TEST(MovTest, extensions) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 0xffff'ffff'ffff'80ff;
  g.put<uint32_t>(Guest::kData, 0x8000'8001);
  EXPECT_EQ(g.run({/* movzx ecx, ah; movsx rdx, al; movsx si, byte [rbx]; movzx edi, word [rbx];
                      movsxd r8, dword [rbx]; movsx r9d, ax */
                   0x0f,
                   0xb6,
                   0xcc,
                   0x48,
                   0x0f,
                   0xbe,
                   0xd0,
                   0x66,
                   0x0f,
                   0xbe,
                   0x33,
                   0x0f,
                   0xb7,
                   0x3b,
                   0x4c,
                   0x63,
                   0x03,
                   0x44,
                   0x0f,
                   0xbf,
                   0xc8}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x80U);
  EXPECT_EQ(g[kRdx], ~uint64_t{0});
  EXPECT_EQ(g[kRsi], 1U);
  EXPECT_EQ(g[kRdi], 0x8001U);
  EXPECT_EQ(g[kR8], 0xffff'ffff'8000'8001U);
  EXPECT_EQ(g[kR9], 0xffff'80ffU);
}

TEST(MovTest, lea_by_operand_and_address_size) {
  Guest g;
  g[kRbx] = 0xffff'ffff'ffff'fff0;
  g[kRcx] = 0x10;
  EXPECT_EQ(g.run({/* lea rax, [rbx + rcx*4 + 1]; lea edx, [rbx + 1]; lea rsi, [ebx + ecx*2]; lea
                      di, [rbx + 2]; lea r8, [rel $ + 7] */
                   0x48,
                   0x8d,
                   0x44,
                   0x8b,
                   0x01,
                   0x8d,
                   0x53,
                   0x01,
                   0x67,
                   0x48,
                   0x8d,
                   0x34,
                   0x4b,
                   0x66,
                   0x8d,
                   0x7b,
                   0x02,
                   0x4c,
                   0x8d,
                   0x05,
                   0x00,
                   0x00,
                   0x00,
                   0x00}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x31U);
  EXPECT_EQ(g[kRdx], 0xffff'fff1U);
  EXPECT_EQ(g[kRsi], 0x10U);
  EXPECT_EQ(g[kRdi], 0xfff2U);
  // 5 + 4 + 5 + 5 bytes precede the last LEA.
  EXPECT_EQ(g[kR8], TestMachine::kCode + 17 + 7);
}

TEST(MovTest, xchg_forms) {
  Guest g;
  g[kRax] = 0x1122'3344'5566'7788;
  g[kRbx] = Guest::kData;
  g[kRcx] = 0xffff'ffff'0000'0001;
  g.put<uint32_t>(Guest::kData, 0xcafe'f00d);
  EXPECT_EQ(
      g.run({/* xchg al, ah; xchg ecx, [rbx]; xchg rdx, rax */ 0x86, 0xc4, 0x87, 0x0b, 0x48, 0x92}),
      Guest::kHalted);
  EXPECT_EQ(g[kRdx], 0x1122'3344'5566'8877U);
  EXPECT_EQ(g[kRcx], 0xcafe'f00dU);
  EXPECT_EQ(g.get<uint64_t>(Guest::kData), 1U);
}

TEST(MovTest, xchg_of_a_register_with_itself_clears_the_upper_half_but_nop_does_not) {
  Guest g;
  g[kRax] = g[kRcx] = 0x1111'1111'2222'2222;
  EXPECT_EQ(g.run({/* nop */ 0x90, /* xchg ecx, ecx */ 0x87, 0xc9}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x1111'1111'2222'2222U);
  EXPECT_EQ(g[kRcx], 0x2222'2222U);
}

TEST(MovTest, bswap_and_movbe) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 0x0102'0304'0506'0708;
  g[kRcx] = g[kRax];
  g.put<uint32_t>(Guest::kData, 0x0a0b'0c0d);
  EXPECT_EQ(g.run({/* bswap rax; bswap ecx; movbe edx, [rbx]; movbe [rbx + 4], dx */ 0x48, 0x0f,
                   0xc8, 0x0f, 0xc9, 0x0f, 0x38, 0xf0, 0x13, 0x66, 0x0f, 0x38, 0xf1, 0x53, 0x04}),
            Guest::kHalted);
  EXPECT_EQ(g[kRdx], 0x0d0c'0b0aU);
  EXPECT_EQ(g.get<uint16_t>(Guest::kData + 4), 0x0a0bU);
  EXPECT_EQ(g[kRax], 0x0807'0605'0403'0201U);
  EXPECT_EQ(g[kRcx], 0x0807'0605U);
}

TEST(MovTest, xlat_uses_al_and_the_address_size) {
  Guest g;
  g[kRbx] = Guest::kData;
  g[kRax] = 0xff00'0080;
  g.put<uint8_t>(Guest::kData + 0x80, 0x5a);
  EXPECT_EQ(g.run({/* xlatb */ 0xd7}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xff00'005aU);
}

TEST(MovTest, cmov_not_taken_still_clears_the_upper_half) {
  Guest g;
  g.set_flags(kZf);
  g[kRax] = g[kRdx] = g[kRsi] = 0x1111'1111'2222'2222;
  g[kRcx] = 0x3333'3333'4444'4444;
  EXPECT_EQ(g.run({/* cmovnz eax, ecx; cmovz edx, ecx; cmovnz si, cx */ 0x0f, 0x45, 0xc1, 0x0f,
                   0x44, 0xd1, 0x66, 0x0f, 0x45, 0xf1}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0x2222'2222U);
  EXPECT_EQ(g[kRdx], 0x4444'4444U);
  EXPECT_EQ(g[kRsi], 0x1111'1111'2222'2222U);
}

TEST(MovTest, cmov_not_taken_still_faults) {
  Guest g;
  g.unmap_behind_data();
  g[kRbx] = Guest::kUnmapped;
  g[kRax] = 1;
  EXPECT_EQ(g.run({/* cmovz rax, [rbx] */ 0x48, 0x0f, 0x44, 0x03}), kPF);
  EXPECT_EQ(g[kRax], 1U);
}

// Every condition under every combination of the five flags it may look at, by the definitions of
// SDM 1 appendix B.
TEST(MovTest, setcc_agrees_with_the_definitions) {
  for (unsigned cc = 0; cc < 16; ++cc) {
    Guest g;
    ASSERT_EQ(g.run({/* setcc bl */ 0x0f, static_cast<uint8_t>(0x90 + cc), 0xc3}), Guest::kHalted);
    for (unsigned bits = 0; bits < 32; ++bits) {
      const bool cf = (bits & 1) != 0, pf = (bits & 2) != 0, zf = (bits & 4) != 0,
                 sf = (bits & 8) != 0, of = (bits & 16) != 0;
      const bool expected[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
      g.set_flags((cf ? kCf : 0) | (pf ? kPf : 0) | (zf ? kZf : 0) | (sf ? kSf : 0) |
                  (of ? kOf : 0));
      g[kRbx] = 0xffff;
      ASSERT_EQ(g.again(), Guest::kHalted);
      EXPECT_EQ(g[kRbx], 0xff00U | (expected[cc / 2] != ((cc & 1) != 0) ? 1U : 0U))
          << "cc " << cc << " flags " << bits;
    }
  }
}

TEST(MovTest, setcc_to_memory) {
  Guest g;
  g[kRbx] = Guest::kData;
  g.set_flags(kCf);
  g.put<uint16_t>(Guest::kData, 0xffff);
  EXPECT_EQ(g.run({/* setc [rbx] */ 0x0f, 0x92, 0x03}), Guest::kHalted);
  EXPECT_EQ(g.get<uint16_t>(Guest::kData), 0xff01U);
}

TEST(MovTest, store_to_the_next_instruction_takes_effect_at_once) {
  Guest g;
  // The store turns "mov ecx, 1" into "mov ecx, 7".
  EXPECT_EQ(g.run({/* mov byte [rel target + 1], 7; target: mov ecx, 1 */ 0xc6, 0x05, 0x01, 0x00,
                   0x00, 0x00, 0x07, 0xb9, 0x01, 0x00, 0x00, 0x00}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 7U);
}

}  // namespace
}  // namespace trapeze::soft
