#include <string_view>

#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kData = Guest::kData;

TEST(BitTest, register_forms_wrap_the_index_and_change_only_carry) {
  Guest g;
  g.set_flags(kZf | kOf | kSf | kPf | kAf);
  g[kRax] = 0xffff'ffff'0000'0002;
  g[kRcx] = 33;
  EXPECT_EQ(g.run({/* bt eax, ecx */ 0x0f, 0xa3, 0xc8}), Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xffff'ffff'0000'0002U);
  EXPECT_EQ(g.flags(), kZf | kOf | kSf | kPf | kAf | kCf);
}

TEST(BitTest, set_reset_complement) {
  Guest g;
  g[kRax] = 0xf0;
  EXPECT_EQ(
      g.run({/* bts rax, 63; btr eax, 4; btc ax, 0; btc ax, 16 + 5 */ 0x48, 0x0f, 0xba, 0xe8, 0x3f,
             0x0f, 0xba, 0xf0, 0x04, 0x66, 0x0f, 0xba, 0xf8, 0x00, 0x66, 0x0f, 0xba, 0xf8, 0x15}),
      Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xc1U);
  EXPECT_EQ(g.flags(kCf), kCf);
}

TEST(BitTest, memory_with_register_index_is_a_bit_string) {
  Guest g;
  g[kRbx] = kData + 0x100;
  g[kRcx] = static_cast<uint64_t>(-1);
  g[kRdx] = 8 * 100 + 3;
  g[kRsi] = 0x1'0000'0000;  // its low half counts: bit 0
  g.put<uint32_t>(kData + 0xfc, 0x7fff'ffff);
  EXPECT_EQ(g.run({/* bts [rbx], ecx; btc [rbx], rdx; lock bts [rbx], esi */ 0x0f, 0xab, 0x0b, 0x48,
                   0x0f, 0xbb, 0x13, 0xf0, 0x0f, 0xab, 0x33}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint32_t>(kData + 0xfc), 0xffff'ffffU);
  EXPECT_EQ(g.get<uint8_t>(kData + 0x100 + 100), 8U);
  EXPECT_EQ(g.get<uint8_t>(kData + 0x100), 1U);
  EXPECT_EQ(g.flags(kCf), 0U);
}

TEST(BitTest, sixteen_bit_index_is_signed) {
  Guest g;
  g[kRbx] = kData + 0x1000;
  g[kRcx] = 0x8000;  // -32768 bits: 4096 bytes below
  g.put<uint16_t>(kData, 1);
  EXPECT_EQ(g.run({/* btr [rbx], cx */ 0x66, 0x0f, 0xb3, 0x0b}), Guest::kHalted);
  EXPECT_EQ(g.get<uint16_t>(kData), 0U);
  EXPECT_EQ(g.flags(kCf), kCf);
}

TEST(BitTest, very_long_bit_strings) {
  Guest g;
  g[kRbx] = kData + 0x40'0000'0000'0000;
  g[kRcx] = static_cast<uint64_t>(-0x40'0000'0000'0000) * 8 + 5;
  EXPECT_EQ(g.run({/* bts [rbx], rcx */ 0x48, 0x0f, 0xab, 0x0b}), Guest::kHalted);
  EXPECT_EQ(g.get<uint8_t>(kData), 32U);
}

TEST(BitTest, memory_with_constant_index_stays_in_the_operand) {
  Guest g;
  g[kRbx] = kData;
  EXPECT_EQ(g.run({/* bts dword [rbx], 33; lock btc word [rbx], 15 */ 0x0f, 0xba, 0x2b, 0x21, 0xf0,
                   0x66, 0x0f, 0xba, 0x3b, 0x0f}),
            Guest::kHalted);
  EXPECT_EQ(g.get<uint64_t>(kData), 0x8002U);
}

TEST(BitTest, address_size_cuts_the_sum) {
  Guest g;
  g[kRbx] = 0xffff'fff0;
  g[kRcx] = (kData + 0x10) * 8;
  EXPECT_EQ(g.run({/* bts [ebx], rcx */ 0x67, 0x48, 0x0f, 0xab, 0x0b}), Guest::kHalted);
  EXPECT_EQ(g.get<uint8_t>(kData), 1U);
}

TEST(BitTest, faulting_bts_keeps_the_carry) {
  Guest g;
  g.unmap_behind_data();
  g.set_flags(kCf);
  g[kRbx] = Guest::kUnmapped;
  EXPECT_EQ(g.run({/* bts [rbx], eax */ 0x0f, 0xab, 0x03}), kPF);
  EXPECT_EQ(g.flags(), kCf);
}

TEST(BitTest, scans) {
  Guest g;
  g[kRax] = 0x0010'0000'0000'0100;
  g[kRbx] = kData;
  g.put<uint16_t>(kData, 0x0180);
  EXPECT_EQ(g.run({/* bsf rcx, rax; bsr rdx, rax; bsr si, [rbx]; bsf edi, eax */ 0x48, 0x0f, 0xbc,
                   0xc8, 0x48, 0x0f, 0xbd, 0xd0, 0x66, 0x0f, 0xbd, 0x33, 0x0f, 0xbc, 0xf8}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 8U);
  EXPECT_EQ(g[kRdx], 52U);
  EXPECT_EQ(g[kRsi], 8U);
  EXPECT_EQ(g[kRdi], 8U);
  EXPECT_EQ(g.flags(kZf), 0U);
}

TEST(BitTest, scan_of_zero_keeps_the_destination) {
  Guest g;
  g[kRcx] = g[kRdx] = 0x1234'5678;
  EXPECT_EQ(g.run({/* bsf rcx, rax; bsr dx, ax */ 0x48, 0x0f, 0xbc, 0xc8, 0x66, 0x0f, 0xbd, 0xd0}),
            Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0x1234'5678U);
  EXPECT_EQ(g[kRdx], 0x1234'5678U);
  EXPECT_EQ(g.flags(kZf), kZf);
}

TEST(BitTest, popcnt_sets_zero_only) {
  Guest g;
  g.set_flags(kCf | kOf | kSf | kPf | kAf);
  g[kRcx] = 0xffff'ffff'ffff'ffff;
  EXPECT_EQ(g.run({/* popcnt ebx, ecx; popcnt rdx, rax */ 0xf3, 0x0f, 0xb8, 0xd9, 0xf3, 0x48, 0x0f,
                   0xb8, 0xd0}),
            Guest::kHalted);
  EXPECT_EQ(g[kRbx], 32U);
  EXPECT_EQ(g[kRdx], 0U);
  EXPECT_EQ(g.flags(), kZf);
}

// The check value of CRC-32C.
TEST(BitTest, crc32_of_the_digits) {
  Guest g;
  constexpr std::string_view kDigits = "123456789";
  for (unsigned i = 0; i < kDigits.size(); ++i) g.put<char>(kData + i, kDigits[i]);
  g[kRbx] = kData;
  g[kRax] = 0xffff'ffff;
  EXPECT_EQ(g.run({/* crc32 rax, qword [rbx]; crc32 eax, byte [rbx + 8]; not eax */ 0xf2, 0x48,
                   0x0f, 0x38, 0xf1, 0x03, 0xf2, 0x0f, 0x38, 0xf0, 0x43, 0x08, 0xf7, 0xd0}),
            Guest::kHalted);
  EXPECT_EQ(g[kRax], 0xe306'9283U);
}

}  // namespace
}  // namespace trapeze::soft
