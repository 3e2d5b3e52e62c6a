// The rules around VEX-encoded instructions, which tests/diff cannot ask the host about; what they
// compute is compared with the host there.
#include "accel/soft/exec/vex.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/testing/machine.h"
#include "base/units.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint64_t kData = TestMachine::kData;
constexpr uint64_t kUnmapped = 2 * kData;
constexpr uint64_t kCr4Osxsave = 1U << 18;
using Code = std::initializer_list<uint8_t>;

constexpr Code kVaddps = {0xc5, 0xe8, 0x58, 0xcb};      // vaddps xmm1, xmm2, xmm3
constexpr Code kVaddpsYmm = {0xc5, 0xec, 0x58, 0xcb};   // vaddps ymm1, ymm2, ymm3
constexpr Code kAndn = {0xc4, 0xe2, 0x60, 0xf2, 0xc1};  // andn eax, ebx, ecx
constexpr Code kVzeroupper = {0xc5, 0xf8, 0x77};

class Vex : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestMachine::host_has_level3()) GTEST_SKIP() << "this host's CPU is not x86-64-v3";
    use(TestMode::Long64);
  }
  void use(TestMode mode, const char* model = TestMachine::kLevel3) {
    machine_ = std::make_unique<TestMachine>(mode, model);
    for (unsigned i = 0; i < 16; ++i) {
      std::memset(fpu().xmm[i], static_cast<int>(0x10 + i), 16);
      std::memset(cpu().ymm_high[i], static_cast<int>(0x20 + i), 16);
    }
  }
  Cpu& cpu() { return machine_->cpu(); }
  FpuState& fpu() { return cpu().fpu; }

  // The exception that the code ends in, or -1 when it comes to its end.
  int run(Code code) {
    cpu().fault = {};
    machine_->code(code);
    return machine_->run() == RunResult::Fault ? cpu().fault.vector : -1;
  }
  template <typename T>
  T peek(uint64_t address) {
    return machine_->memory().load<T>(Gpa{address}).value();
  }
  template <typename T>
  void poke(uint64_t address, T value) {
    ASSERT_TRUE(machine_->memory().store<T>(Gpa{address}, value));
  }
  // The 2 MiB page at kUnmapped faults; before the first access.
  void unmap() { poke<uint64_t>(0x3000 + 8 * (kUnmapped >> 21), 0); }
  static bool is_all(const uint8_t* bytes, size_t size, int value) {
    for (size_t i = 0; i < size; ++i) {
      if (bytes[i] != value) return false;
    }
    return true;
  }

  std::unique_ptr<TestMachine> machine_;
};

TEST_F(Vex, needs_osxsave_and_both_components) {
  EXPECT_EQ(run(kVaddps), -1);
  cpu().xcr0 = 3;
  EXPECT_EQ(run(kVaddps), kUD);
  cpu().xcr0 = 7;
  cpu().cr4 &= ~kCr4Osxsave;
  EXPECT_EQ(run(kVaddps), kUD);
  EXPECT_EQ(run(kVzeroupper), kUD);
  EXPECT_EQ(run(kAndn), -1);  // general registers need neither
}

TEST_F(Vex, task_switched_raises_device_not_available) {
  cpu().cr0 |= kCr0Ts;
  EXPECT_EQ(run(kVaddps), kNM);
  EXPECT_EQ(run(kVzeroupper), kNM);
  EXPECT_EQ(run({0xc5, 0xf8, 0xae, 0x16}), kNM);              // vldmxcsr [rsi]
  EXPECT_EQ(run({0xc4, 0xe2, 0x69, 0x2c, 0x0e}), kNM);        // vmaskmovps xmm1, xmm2, [rsi]
  EXPECT_EQ(run({0xc4, 0xe2, 0x69, 0x92, 0x0c, 0x26}), kNM);  // vgatherdps
  EXPECT_EQ(run(kAndn), -1);
  cpu().xcr0 = 1;
  EXPECT_EQ(run(kVaddps), kUD);  // comes first
}

TEST_F(Vex, emulation_and_osfxsr_do_not_matter) {
  cpu().cr0 |= kCr0Em;
  cpu().cr4 &= ~kCr4Osfxsr;
  EXPECT_EQ(run(kVaddps), -1);
}

TEST_F(Vex, other_models_do_not_have_it) {
  use(TestMode::Long64, "x86-64-v2");
  EXPECT_EQ(run(kVaddps), kUD);
  EXPECT_EQ(run(kAndn), kUD);
  EXPECT_EQ(run({0x0f, 0x01, 0xd0}), kUD);       // xgetbv
  EXPECT_EQ(run({0x0f, 0xae, 0x26}), kUD);       // xsave [rsi]
  EXPECT_EQ(run({0xf3, 0x0f, 0xbc, 0xc1}), -1);  // tzcnt is bsf there
}

TEST_F(Vex, bad_encodings_are_undefined) {
  EXPECT_EQ(run({0x66, 0xc5, 0xe8, 0x58, 0xcb}), kUD);  // 66, F2, F3, LOCK, REX before VEX
  EXPECT_EQ(run({0xf2, 0xc5, 0xe8, 0x58, 0xcb}), kUD);
  EXPECT_EQ(run({0xf3, 0xc5, 0xe8, 0x58, 0xcb}), kUD);
  EXPECT_EQ(run({0xf0, 0xc5, 0xe8, 0x58, 0xcb}), kUD);
  EXPECT_EQ(run({0x48, 0xc5, 0xe8, 0x58, 0xcb}), kUD);
  EXPECT_EQ(run({0xc5, 0xe8, 0x28, 0xcb}), kUD);           // vmovaps with vvvv
  EXPECT_EQ(run({0xc5, 0xe8, 0x77}), kUD);                 // vzeroupper with vvvv
  EXPECT_EQ(run({0xc4, 0xe3, 0x75, 0x14, 0xca, 0}), kUD);  // vpextrb with L
  EXPECT_EQ(run({0xc4, 0xe3, 0x69, 0x06, 0xcb, 0}), kUD);  // vperm2f128 without L
  EXPECT_EQ(run({0xc4, 0xe2, 0x64, 0xf2, 0xc1}), kUD);     // andn with L
  EXPECT_EQ(run({0xc4, 0xe2, 0xe9, 0x18, 0xcb}), kUD);     // vbroadcastss with vvvv and W
  EXPECT_EQ(run({0xc4, 0xe4, 0x68, 0x58, 0xcb}), kUD);     // map 4
  EXPECT_EQ(run({0xc4, 0xe3, 0x69, 0x44, 0xcb, 0}), kUD);  // vpclmulqdq: not in the model
  EXPECT_EQ(run({0xc4, 0xe2, 0x69, 0xdc, 0xcb}), kUD);     // vaesenc: not in the model
  EXPECT_EQ(run({0xc4, 0xe1, 0x7a, 0xb8, 0xc1}), kUD);     // "popcnt" of another processor
}

TEST_F(Vex, gather_registers_must_differ) {
  EXPECT_EQ(run({0xc4, 0xe2, 0x71, 0x92, 0x0c, 0x26}), kUD);  // mask is the destination
  EXPECT_EQ(run({0xc4, 0xe2, 0x59, 0x92, 0x0c, 0x26}), kUD);  // mask is the index
  EXPECT_EQ(run({0xc4, 0xe2, 0x69, 0x92, 0x24, 0x26}), kUD);  // destination is the index
}

TEST_F(Vex, is_undefined_in_real_mode) {
  use(TestMode::Real16);
  EXPECT_EQ(run(kVaddps), kUD);
  EXPECT_EQ(run(kAndn), kUD);
  EXPECT_EQ(run(kVzeroupper), kUD);
}

TEST_F(Vex, prefix_is_les_or_lds_in_32_bit_code_where_it_names_memory) {
  use(TestMode::Protected32);
  EXPECT_EQ(run(kVaddpsYmm), -1);
  poke<uint32_t>(kData, 0x1234);
  poke<uint16_t>(kData + 4, 0x10);
  cpu().gpr[kRsi] = kData;
  EXPECT_EQ(run({0xc5, 0x0e}), -1);  // lds ecx, [esi]
  EXPECT_EQ(cpu().gpr[kRcx], 0x1234U);
}

TEST_F(Vex, vex_128_clears_the_upper_half_and_sse_keeps_it) {
  ASSERT_EQ(run(kVaddps), -1);
  EXPECT_TRUE(is_all(cpu().ymm_high[1], 16, 0));
  EXPECT_TRUE(is_all(cpu().ymm_high[2], 16, 0x22));
  ASSERT_EQ(run({0x0f, 0x58, 0xd3}), -1);  // addps xmm2, xmm3
  EXPECT_TRUE(is_all(cpu().ymm_high[2], 16, 0x22));
  ASSERT_EQ(run({0x66, 0x0f, 0x6e, 0xe8}), -1);  // movd xmm5, eax
  EXPECT_TRUE(is_all(cpu().ymm_high[5], 16, 0x25));
}

TEST_F(Vex, zeroing_leaves_high_registers_alone_outside_64_bit_mode) {
  ASSERT_EQ(run(kVzeroupper), -1);
  EXPECT_TRUE(is_all(cpu().ymm_high[0], sizeof(cpu().ymm_high), 0));
  EXPECT_TRUE(is_all(fpu().xmm[15], 16, 0x1f));
  ASSERT_EQ(run({0xc5, 0xfc, 0x77}), -1);  // vzeroall
  EXPECT_TRUE(is_all(fpu().xmm[0], sizeof(fpu().xmm), 0));
  use(TestMode::Protected32);
  ASSERT_EQ(run({0xc5, 0xfc, 0x77}), -1);
  EXPECT_TRUE(is_all(fpu().xmm[7], 16, 0));
  EXPECT_TRUE(is_all(fpu().xmm[8], 16, 0x18));
  EXPECT_TRUE(is_all(cpu().ymm_high[8], 16, 0x28));
}

TEST_F(Vex, alignment_is_required_only_of_aligned_moves) {
  cpu().gpr[kRsi] = kData + 16;
  EXPECT_EQ(run({0xc5, 0xfd, 0x6f, 0x0e}), kGP);  // vmovdqa ymm1, [rsi]
  EXPECT_EQ(cpu().fault.error_code, 0U);
  EXPECT_EQ(run({0xc5, 0xfd, 0x7f, 0x0e}), kGP);    // vmovdqa [rsi], ymm1
  EXPECT_EQ(run({0xc5, 0xfd, 0xe7, 0x0e}), kGP);    // vmovntdq [rsi], ymm1
  EXPECT_EQ(run({0xc5, 0xf9, 0x6f, 0x0e}), -1);     // vmovdqa xmm1, [rsi]
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x4e, 1}), -1);  // vmovdqu ymm1, [rsi + 1]
  EXPECT_EQ(run({0xc5, 0xec, 0x58, 0x4e, 1}), -1);  // vaddps ymm1, ymm2, [rsi + 1]
  EXPECT_EQ(run({0xc5, 0xf9, 0x6f, 0x4e, 1}), kGP);
}

TEST_F(Vex, a_store_across_pages_that_faults_writes_nothing) {
  unmap();
  cpu().gpr[kRsi] = kUnmapped - 16;
  poke<uint64_t>(kUnmapped - 16, 77);
  EXPECT_EQ(run({0xc5, 0xfe, 0x7f, 0x0e}), kPF);  // vmovdqu [rsi], ymm1
  EXPECT_EQ(cpu().fault.cr2, kUnmapped);
  EXPECT_EQ(peek<uint64_t>(kUnmapped - 16), 77U);
  EXPECT_EQ(run({0xc5, 0xfe, 0x6f, 0x0e}), kPF);  // vmovdqu ymm1, [rsi]
  EXPECT_TRUE(is_all(fpu().xmm[1], 16, 0x11));
}

TEST_F(Vex, masked_moves_fault_only_for_chosen_elements) {
  unmap();
  cpu().gpr[kRsi] = kUnmapped - 16;
  std::memset(fpu().xmm[2], 0x80, 16);
  std::memset(cpu().ymm_high[2], 0, 16);
  poke<uint32_t>(kUnmapped - 4, 0xabcd);
  ASSERT_EQ(run({0xc4, 0xe2, 0x6d, 0x2c, 0x0e}), -1);  // vmaskmovps ymm1, ymm2, [rsi]
  EXPECT_EQ(fpu().xmm[1][12], 0xcd);
  EXPECT_TRUE(is_all(cpu().ymm_high[1], 16, 0));
  ASSERT_EQ(run({0xc4, 0xe2, 0x6d, 0x2e, 0x1e}), -1);  // vmaskmovps [rsi], ymm2, ymm3
  EXPECT_EQ(peek<uint64_t>(kUnmapped - 8), 0x1313131313131313U);
  cpu().ymm_high[2][3] = 0x80;
  poke<uint64_t>(kUnmapped - 8, 5);
  EXPECT_EQ(run({0xc4, 0xe2, 0x6d, 0x2e, 0x1e}), kPF);
  EXPECT_EQ(cpu().fault.cr2, kUnmapped);
  EXPECT_EQ(peek<uint64_t>(kUnmapped - 8), 5U);
}

TEST_F(Vex, a_gather_that_faults_goes_on_where_it_was) {
  unmap();
  cpu().gpr[kRsi] = kData;
  const int32_t indices[4] = {0, 4, static_cast<int32_t>(kUnmapped - kData), 8};
  std::memcpy(fpu().xmm[4], indices, 16);
  std::memset(fpu().xmm[2], 0x80, 16);
  for (uint32_t i = 0; i < 3; ++i) poke<uint32_t>(kData + 4 * i, 100 + i);
  const std::initializer_list<uint8_t> kGather = {0xc4, 0xe2, 0x69, 0x92, 0x0c, 0x26};
  ASSERT_EQ(run(kGather), kPF);
  EXPECT_EQ(cpu().fault.cr2, kUnmapped);
  uint32_t got[4], mask[4];
  std::memcpy(got, fpu().xmm[1], 16);
  std::memcpy(mask, fpu().xmm[2], 16);
  EXPECT_EQ(got[0], 100U);
  EXPECT_EQ(got[1], 101U);
  EXPECT_EQ(mask[0] | mask[1], 0U);
  EXPECT_EQ(mask[2] & mask[3], ~0U);
  const int32_t mended[4] = {8, 8, 0, 8};  // the first two are not fetched again
  std::memcpy(fpu().xmm[4], mended, 16);
  ASSERT_EQ(run(kGather), -1);
  std::memcpy(got, fpu().xmm[1], 16);
  EXPECT_EQ(got[0], 100U);
  EXPECT_EQ(got[1], 101U);
  EXPECT_EQ(got[2], 100U);
  EXPECT_EQ(got[3], 102U);
  EXPECT_TRUE(is_all(fpu().xmm[2], 16, 0));
  EXPECT_TRUE(is_all(cpu().ymm_high[1], 16, 0));
  EXPECT_TRUE(is_all(cpu().ymm_high[2], 16, 0));
}

TEST_F(Vex, unmasked_exceptions_change_nothing_but_mxcsr) {
  fpu().mxcsr = kMxcsrReset & ~(kMxcsrIe << 7);
  std::memset(cpu().ymm_high[2], 0xff, 16);  // NaNs, but quiet ones
  EXPECT_EQ(run(kVaddpsYmm), -1);
  const uint32_t signalling = 0x7f800001;
  std::memcpy(cpu().ymm_high[2] + 12, &signalling, 4);
  std::memset(fpu().xmm[1], 0x5a, 16);
  EXPECT_EQ(run(kVaddpsYmm), kXM);
  EXPECT_NE(fpu().mxcsr & kMxcsrIe, 0U);
  EXPECT_TRUE(is_all(fpu().xmm[1], 16, 0x5a));
  cpu().cr4 &= ~kCr4Osxmmexcpt;
  EXPECT_EQ(run(kVaddpsYmm), kUD);
}

TEST_F(Vex, w_means_nothing_for_general_registers_outside_64_bit_mode) {
  use(TestMode::Protected32);
  cpu().gpr[kRax] = 0x8000'0000;
  cpu().gpr[kRbx] = 0;
  ASSERT_EQ(run({0xc4, 0xe2, 0xe0, 0xf2, 0xc0}), -1);  // andn eax, ebx, eax with W
  EXPECT_EQ(cpu().gpr[kRax], 0x8000'0000U);
  EXPECT_NE(to_rflags(cpu().arith) & kSf, 0U);
  ASSERT_EQ(run({0xc4, 0xe1, 0xf9, 0x6e, 0xc8}), -1);  // vmovd xmm1, eax with W
  EXPECT_EQ(fpu().xmm[1][3], 0x80);
  EXPECT_TRUE(is_all(fpu().xmm[1] + 4, 12, 0));
}

TEST_F(Vex, same_encodings_share_a_thunk) {
  VexEncoding encoding;
  encoding.map = 1;
  encoding.opcode = 0x58;
  encoding.has_vvvv = true;
  VexOp op;
  op.needs_avx = true;
  const uint32_t number = vex_op_number(encoding, op);
  EXPECT_EQ(vex_op_number(encoding, op), number);
  encoding.is_256 = true;
  EXPECT_NE(vex_op_number(encoding, op), number);
}

}  // namespace
}  // namespace trapeze::soft::exec
