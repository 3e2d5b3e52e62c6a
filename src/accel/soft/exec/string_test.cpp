#include <string>
#include <string_view>

#include "accel/soft/exec/guest_test.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kData = Guest::kData;

void put_text(Guest& g, uint64_t address, std::string_view text) {
  for (const char c : text) g.put<char>(address++, c);
}
std::string get_text(Guest& g, uint64_t address, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) text.push_back(g.get<char>(address + i));
  return text;
}

TEST(StringTest, movs_once_by_width_and_direction) {
  Guest g;
  g[kRsi] = kData;
  g[kRdi] = kData + 0x100;
  g.put<uint64_t>(kData, 0x1122'3344'5566'7788);
  EXPECT_EQ(g.run({/* movsb; movsw; std; movsb; cld; movsq */ 0xa4, 0x66, 0xa5, 0xfd, 0xa4, 0xfc,
                   0x48, 0xa5}),
            Guest::kHalted);
  EXPECT_EQ(g[kRsi], kData + 3 - 1 + 8);
  EXPECT_EQ(g[kRdi], kData + 0x100 + 3 - 1 + 8);
  EXPECT_EQ(g.get<uint16_t>(kData + 0x100), 0x7788U);
  EXPECT_EQ(g.get<uint64_t>(kData + 0x102), 0x0000'1122'3344'5566U);
}

TEST(StringTest, rep_with_count_zero_touches_nothing) {
  Guest g;
  g.unmap_behind_data();
  g[kRsi] = g[kRdi] = Guest::kUnmapped;
  g.set_flags(kCf | kZf);
  EXPECT_EQ(g.run({/* rep movsq; rep stosb; rep lodsb; repe cmpsb; repne scasb */ 0xf3, 0x48, 0xa5,
                   0xf3, 0xaa, 0xf3, 0xac, 0xf3, 0xa6, 0xf2, 0xae}),
            Guest::kHalted);
  EXPECT_EQ(g[kRsi], Guest::kUnmapped);
  EXPECT_EQ(g[kRdi], Guest::kUnmapped);
  EXPECT_EQ(g.flags(), kCf | kZf);
}

TEST(StringTest, rep_movs_over_several_pages_not_aligned) {
  Guest g;
  constexpr uint64_t kBytes = 3 * kPageSize + 100;
  for (uint64_t i = 0; i < kBytes; i += 4)
    g.put<uint32_t>(kData + 0x123 + i, static_cast<uint32_t>(i * 77));
  g[kRsi] = kData + 0x123;
  g[kRdi] = kData + 0x10'0456;
  g[kRcx] = kBytes / 4;
  EXPECT_EQ(g.run({/* rep movsd */ 0xf3, 0xa5}), Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0U);
  EXPECT_EQ(g[kRsi], kData + 0x123 + kBytes);
  EXPECT_EQ(g[kRdi], kData + 0x10'0456 + kBytes);
  for (uint64_t i = 0; i < kBytes; i += 4) {
    ASSERT_EQ(g.get<uint32_t>(kData + 0x10'0456 + i), static_cast<uint32_t>(i * 77)) << i;
  }
  EXPECT_EQ(g.get<uint32_t>(kData + 0x10'0456 + kBytes), 0U);
}

TEST(StringTest, overlapping_movs_upwards_repeats_the_beginning) {
  Guest bytes;
  put_text(bytes, kData, "abc");
  bytes[kRsi] = kData;
  bytes[kRdi] = kData + 3;
  bytes[kRcx] = 10;
  EXPECT_EQ(bytes.run({/* rep movsb */ 0xf3, 0xa4}), Guest::kHalted);
  EXPECT_EQ(get_text(bytes, kData, 14), std::string("abcabcabcabca\0", 14));

  // Elements wider than the distance: each is read whole before it is written.
  Guest words;
  put_text(words, kData, "abcdefghijkl");
  words[kRsi] = kData;
  words[kRdi] = kData + 1;
  words[kRcx] = 3;
  EXPECT_EQ(words.run({/* rep movsd */ 0xf3, 0xa5}), Guest::kHalted);
  EXPECT_EQ(get_text(words, kData, 13), "aabcddfghhjkl");
}

TEST(StringTest, overlapping_movs_towards_lower_addresses_moves) {
  Guest g;
  put_text(g, kData, "0123456789");
  g[kRsi] = kData + 2;
  g[kRdi] = kData;
  g[kRcx] = 8;
  EXPECT_EQ(g.run({/* rep movsb */ 0xf3, 0xa4}), Guest::kHalted);
  EXPECT_EQ(get_text(g, kData, 10), "2345678989");
}

TEST(StringTest, downwards) {
  Guest g;
  put_text(g, kData, "0123456789");
  g[kRsi] = kData + 7;
  g[kRdi] = kData + 9;
  g[kRcx] = 8;
  EXPECT_EQ(g.run({/* std; rep movsb */ 0xfd, 0xf3, 0xa4}), Guest::kHalted);
  EXPECT_EQ(get_text(g, kData, 10), "0101234567");
  EXPECT_EQ(g[kRsi], kData - 1);
  EXPECT_EQ(g[kRdi], kData + 1);
  EXPECT_EQ(g[kRcx], 0U);
}

TEST(StringTest, stos_patterns_across_pages) {
  Guest g;
  g[kRdi] = kData + kPageSize - 12;
  g[kRax] = 0x0102'0304'0506'0708;
  g[kRcx] = 4;
  EXPECT_EQ(g.run({/* rep stosq; mov al, 0x99; mov ecx, 5000; rep stosb */ 0xf3, 0x48, 0xab, 0xb0,
                   0x99, 0xb9, 0x88, 0x13, 0x00, 0x00, 0xf3, 0xaa}),
            Guest::kHalted);
  for (unsigned i = 0; i < 4; ++i) {
    EXPECT_EQ(g.get<uint64_t>(kData + kPageSize - 12 + 8 * i), 0x0102'0304'0506'0708U);
  }
  EXPECT_EQ(g[kRdi], kData + kPageSize + 20 + 5000);
  EXPECT_EQ(g.get<uint8_t>(g[kRdi] - 1), 0x99U);
  EXPECT_EQ(g.get<uint8_t>(g[kRdi]), 0U);
}

TEST(StringTest, fault_in_the_middle_leaves_registers_at_the_element) {
  Guest g;
  g.unmap_behind_data();
  g[kRdi] = Guest::kUnmapped - 20;
  g[kRcx] = 100;
  g[kRax] = 0x5555'5555;
  EXPECT_EQ(g.run({/* rep stosd */ 0xf3, 0xab}), kPF);
  EXPECT_EQ(g[kRdi], Guest::kUnmapped);
  EXPECT_EQ(g[kRcx], 95U);
  EXPECT_EQ(g.cpu().fault.cr2, Guest::kUnmapped);
  EXPECT_EQ(g.cpu().rip, TestMachine::kCode);
  EXPECT_EQ(g.get<uint32_t>(Guest::kUnmapped - 4), 0x5555'5555U);
}

TEST(StringTest, element_half_on_a_missing_page_is_not_written) {
  Guest g;
  g.unmap_behind_data();
  g[kRdi] = Guest::kUnmapped - 6;
  g[kRcx] = 2;
  g[kRax] = 0x5555'5555;
  EXPECT_EQ(g.run({/* rep stosd */ 0xf3, 0xab}), kPF);
  EXPECT_EQ(g[kRdi], Guest::kUnmapped - 2);
  EXPECT_EQ(g[kRcx], 1U);
  EXPECT_EQ(g.get<uint16_t>(Guest::kUnmapped - 2), 0U);
}

TEST(StringTest, movs_with_a_faulting_destination_moves_no_register) {
  Guest g;
  g.unmap_behind_data();
  g[kRsi] = kData;
  g[kRdi] = Guest::kUnmapped;
  EXPECT_EQ(g.run({/* movsb */ 0xa4}), kPF);
  EXPECT_EQ(g[kRsi], kData);
  EXPECT_EQ(g[kRdi], Guest::kUnmapped);
}

TEST(StringTest, address_size_32_wraps_and_clears_upper_halves) {
  Guest g;
  put_text(g, kData, "xy");
  g[kRsi] = 0xffff'ffff'0000'0000 + kData;
  g[kRdi] = 0xeeee'eeee'0000'0000 + kData + 16;
  g[kRcx] = 0xdddd'dddd'0000'0002;
  EXPECT_EQ(g.run({/* a32 rep movsb */ 0xf3, 0x67, 0xa4}), Guest::kHalted);
  EXPECT_EQ(g[kRsi], kData + 2);
  EXPECT_EQ(g[kRdi], kData + 18);
  EXPECT_EQ(g[kRcx], 0U);
  EXPECT_EQ(get_text(g, kData + 16, 2), "xy");
}

TEST(StringTest, source_segment_can_be_overridden) {
  Guest g;
  g.cpu().linear_base[kGs] = kData;
  g.cpu().seg[kGs].base = kData;
  put_text(g, kData + 4, "gs");
  g[kRsi] = 4;
  g[kRdi] = kData + 32;
  g[kRcx] = 2;
  EXPECT_EQ(g.run({/* gs rep movsb; mov esi, 5; gs lodsb */ 0xf3, 0x65, 0xa4, 0xbe, 0x05, 0x00,
                   0x00, 0x00, 0x65, 0xac}),
            Guest::kHalted);
  EXPECT_EQ(get_text(g, kData + 32, 2), "gs");
  EXPECT_EQ(g[kRax], uint64_t{'s'});
}

TEST(StringTest, sixteen_bit_indexes_wrap_and_keep_the_upper_half) {
  Guest g(TestMode::Real16);
  g[kRdi] = 0xaaaa'fffe;
  g[kRcx] = 0xbbbb'0004;
  g[kRax] = 0x77;
  EXPECT_EQ(g.run({/* rep stosb */ 0xf3, 0xaa}), Guest::kHalted);
  EXPECT_EQ(g[kRdi], 0xaaaa'0002U);
  EXPECT_EQ(g[kRcx], 0xbbbb'0000U);
  EXPECT_EQ(g.get<uint16_t>(0xfffe), 0x7777U);
  EXPECT_EQ(g.get<uint16_t>(0), 0x7777U);
}

TEST(StringTest, element_beyond_the_segment_limit_faults_behind_those_within) {
  Guest g(TestMode::Protected32);
  g.cpu().seg[kEs].limit = kData + 9;
  g[kRdi] = kData;
  g[kRcx] = 10;
  g[kRax] = 0x11;
  EXPECT_EQ(g.run({/* rep stosd */ 0xf3, 0xab}), kGP);
  EXPECT_EQ(g[kRdi], kData + 8);
  EXPECT_EQ(g[kRcx], 8U);
}

TEST(StringTest, scas_stops_behind_the_match) {
  Guest g;
  put_text(g, kData, "hello");
  g[kRdi] = kData;
  g[kRcx] = ~uint64_t{0};
  EXPECT_EQ(g.run({/* repne scasb */ 0xf2, 0xae}), Guest::kHalted);
  EXPECT_EQ(g[kRdi], kData + 6);
  EXPECT_EQ(g[kRcx], ~uint64_t{0} - 6);
  EXPECT_EQ(g.flags(kZf | kCf), kZf);
}

TEST(StringTest, cmps_stops_behind_the_difference_with_its_flags) {
  Guest g;
  put_text(g, kData, "same1");
  put_text(g, kData + 0x800, "same2");
  g[kRsi] = kData;
  g[kRdi] = kData + 0x800;
  g[kRcx] = 100;
  EXPECT_EQ(g.run({/* repe cmpsb */ 0xf3, 0xa6}), Guest::kHalted);
  EXPECT_EQ(g[kRsi], kData + 5);
  EXPECT_EQ(g[kRdi], kData + 0x805);
  EXPECT_EQ(g[kRcx], 95U);
  EXPECT_EQ(g.flags(kZf | kCf | kSf), kCf | kSf);  // '1' - '2'
}

TEST(StringTest, cmps_that_faults_keeps_the_flags) {
  Guest g;
  g.unmap_behind_data();
  g[kRsi] = kData;
  g[kRdi] = Guest::kUnmapped - 3;
  g[kRcx] = 10;
  g.set_flags(kCf | kOf);
  EXPECT_EQ(g.run({/* repe cmpsb */ 0xf3, 0xa6}), kPF);
  EXPECT_EQ(g.flags(), kCf | kOf);
  EXPECT_EQ(g[kRcx], 7U);
  EXPECT_EQ(g[kRdi], Guest::kUnmapped);
}

TEST(StringTest, repne_means_rep_for_movs_and_stos) {
  Guest g;
  g[kRdi] = kData;
  g[kRcx] = 3;
  g[kRax] = 0x41;
  EXPECT_EQ(g.run({/* repne stosb */ 0xf2, 0xaa}), Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0U);
  EXPECT_EQ(get_text(g, kData, 3), "AAA");
}

TEST(StringTest, pending_attention_does_not_lose_or_repeat_elements) {
  Guest g;
  for (unsigned i = 0; i < 5000; ++i) g.put<uint8_t>(kData + i, static_cast<uint8_t>(i));
  g[kRsi] = kData;
  g[kRdi] = kData + 0x1'0000;
  g[kRcx] = 5000;
  g.cpu().attention.fetch_or(kAttnInterrupt);  // nothing behind it: the run loop clears it
  EXPECT_EQ(g.run({/* rep movsb */ 0xf3, 0xa4}), Guest::kHalted);
  EXPECT_EQ(g[kRcx], 0U);
  EXPECT_EQ(g[kRdi], kData + 0x1'0000 + 5000);
  for (unsigned i = 0; i < 5000; ++i) {
    ASSERT_EQ(g.get<uint8_t>(kData + 0x1'0000 + i), static_cast<uint8_t>(i));
  }
}

TEST(StringTest, stos_over_the_following_code_takes_effect) {
  Guest g;
  g[kRax] = 0x90;  // NOP over "mov bl, 1"
  g[kRcx] = 2;
  EXPECT_EQ(g.run({/* lea rdi, [rel target]; rep stosb; target: mov bl, 1; or bh, 1 */ 0x48, 0x8d,
                   0x3d, 0x02, 0x00, 0x00, 0x00, 0xf3, 0xaa, 0xb3, 0x01, 0x80, 0xcf, 0x01}),
            Guest::kHalted);
  EXPECT_EQ(g[kRbx], 0x100U);
}

}  // namespace
}  // namespace trapeze::soft
