#include "accel/soft/decode/decoder.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <vector>

namespace trapeze::soft {
namespace {

class DecoderTest : public testing::Test {
 protected:
  DecodeStatus decode(CodeSize code_size, std::initializer_list<uint8_t> bytes,
                      uint16_t start = 0) {
    const std::vector<uint8_t> copy(bytes);
    return decoder_.decode(code_size, copy, start, decoded_);
  }
  const Insn& insn() const { return decoded_.insn; }

  CpuModel model_ = CpuModel::create(CpuModel::names().front(), 1).value();
  Decoder decoder_{model_};
  Decoded decoded_;
};

TEST_F(DecoderTest, memory_operand_is_taken_apart) {
  // mov rax, [rbx + rcx*8 + 0x12345678]
  ASSERT_EQ(decode(CodeSize::Code64, {0x48, 0x8b, 0x84, 0xcb, 0x78, 0x56, 0x34, 0x12}),
            DecodeStatus::Ok);
  EXPECT_EQ(insn().dst, kRax * 8);
  EXPECT_EQ(insn().base, kRbx * 8);
  EXPECT_EQ(insn().index, kRcx * 8);
  EXPECT_EQ(insn().scale, 3);
  EXPECT_EQ(insn().disp, 0x12345678);
  EXPECT_EQ(insn().width, 8);
  EXPECT_EQ(insn().flags & kSlowAddress, 0);
}

TEST_F(DecoderTest, high_byte_register_has_an_odd_slot) {
  ASSERT_EQ(decode(CodeSize::Code64, {0x88, 0xe3}), DecodeStatus::Ok);  // mov bl, ah
  EXPECT_EQ(insn().dst, kRbx * 8);
  EXPECT_EQ(insn().src, kRax * 8 + 1);
  ASSERT_EQ(decode(CodeSize::Code64, {0x40, 0x88, 0xe3}), DecodeStatus::Ok);  // mov bl, spl
  EXPECT_EQ(insn().src, kRsp * 8);
}

TEST_F(DecoderTest, rip_relative_counts_from_the_block) {
  // lea rax, [rip + 0x10], 7 bytes, at offset 5
  ASSERT_EQ(decode(CodeSize::Code64, {0x48, 0x8d, 0x05, 0x10, 0, 0, 0}, 5), DecodeStatus::Ok);
  EXPECT_EQ(insn().base, kRipReg * 8);
  EXPECT_EQ(insn().disp, 0x10 + 7 + 5);
}

TEST_F(DecoderTest, branch_target_counts_from_the_block) {
  ASSERT_EQ(decode(CodeSize::Code64, {0x74, 0xfe}, 9), DecodeStatus::Ok);  // je .
  EXPECT_EQ(insn().imm64, 9);
}

TEST_F(DecoderTest, segment_override_needs_the_slow_address) {
  ASSERT_EQ(decode(CodeSize::Code64, {0x65, 0x48, 0x8b, 0x00}), DecodeStatus::Ok);  // gs:[rax]
  EXPECT_EQ(insn().seg, kGs);
  EXPECT_NE(insn().flags & kSlowAddress, 0);
  ASSERT_EQ(decode(CodeSize::Code64, {0x2e, 0x48, 0x8b, 0x00}), DecodeStatus::Ok);  // cs:[rax]
  EXPECT_EQ(insn().seg, kDs);
  EXPECT_EQ(insn().flags & kSlowAddress, 0);
}

TEST_F(DecoderTest, stack_base_means_the_stack_segment) {
  ASSERT_EQ(decode(CodeSize::Code64, {0x48, 0x8b, 0x45, 0x08}), DecodeStatus::Ok);  // [rbp+8]
  EXPECT_EQ(insn().seg, kSs);
}

TEST_F(DecoderTest, sixty_four_bit_immediate_is_kept_whole) {
  ASSERT_EQ(decode(CodeSize::Code64, {0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1}), DecodeStatus::Ok);
  EXPECT_EQ(insn().imm64, 0x0102030405060708);
}

TEST_F(DecoderTest, bad_bytes_say_what_is_wrong) {
  EXPECT_EQ(decode(CodeSize::Code64, {0x48}), DecodeStatus::NeedMore);
  EXPECT_EQ(decode(CodeSize::Code64, {0x06}), DecodeStatus::Invalid);              // push es
  EXPECT_EQ(decode(CodeSize::Code64, {0xf0, 0x01, 0xc0}), DecodeStatus::Invalid);  // lock, register
  EXPECT_EQ(decode(CodeSize::Code64, {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                      0x66, 0x66, 0x66, 0x66, 0x66, 0x90}),
            DecodeStatus::TooLong);
}

TEST_F(DecoderTest, sixteen_bit_code_has_sixteen_bit_operands) {
  ASSERT_EQ(decode(CodeSize::Code16, {0x01, 0x07}), DecodeStatus::Ok);  // add [bx], ax
  EXPECT_EQ(insn().width, 2);
  EXPECT_EQ(insn().base, kRbx * 8);
  EXPECT_NE(insn().flags & kAddress16, 0);
  EXPECT_NE(insn().flags & kNotCode64, 0);
}

}  // namespace
}  // namespace trapeze::soft
