// XSAVE, XSAVEOPT, XSAVEC, XRSTOR, and XCR0.
#include "accel/soft/exec/xsave.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <vector>

#include "accel/soft/exec/fpu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"
#include "base/units.h"

namespace trapeze::soft::exec {
namespace {

constexpr uint64_t kData = TestMachine::kData;
constexpr uint64_t kUnmapped = 2 * kData;
constexpr size_t kAreaBytes = 832;
constexpr uint64_t kCompacted = uint64_t{1} << 63;
using Code = std::initializer_list<uint8_t>;

constexpr Code kXsave = {0x48, 0x0f, 0xae, 0x26};  // [rsi], with 64-bit pointers
constexpr Code kXsaveopt = {0x48, 0x0f, 0xae, 0x36};
constexpr Code kXsavec = {0x48, 0x0f, 0xc7, 0x26};
constexpr Code kXrstor = {0x48, 0x0f, 0xae, 0x2e};
constexpr Code kXgetbv = {0x0f, 0x01, 0xd0};
constexpr Code kXsetbv = {0x0f, 0x01, 0xd1};

class Xsave : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestMachine::host_has_level3()) GTEST_SKIP() << "this host's CPU is not x86-64-v3";
    machine_ = std::make_unique<TestMachine>(TestMode::Long64, TestMachine::kLevel3);
    cpu().gpr[kRsi] = kData;
    clear();
    fpu_init(fpu());
  }
  Cpu& cpu() { return machine_->cpu(); }
  FpuState& fpu() { return cpu().fpu; }
  // All that XSAVE knows.
  struct State {
    FpuState fpu;
    uint8_t ymm_high[16][16];
  };
  State state() {
    State now;
    std::memcpy(&now.fpu, &fpu(), sizeof(now.fpu));
    std::memcpy(now.ymm_high, cpu().ymm_high, sizeof(now.ymm_high));
    return now;
  }
  bool is_as(const State& before) {
    return std::memcmp(&fpu(), &before.fpu, sizeof(FpuState)) == 0 &&
           std::memcmp(cpu().ymm_high, before.ymm_high, sizeof(before.ymm_high)) == 0;
  }
  void clear() {
    fpu() = {};
    fpu().mxcsr = kMxcsrReset;
    std::memset(cpu().ymm_high, 0, sizeof(cpu().ymm_high));
  }
  void fill_registers() {
    fpu().fcw = 0x27f;
    fpu().fip = 0x1234'5678'9abc;
    for (unsigned i = 0; i < 8; ++i) std::memset(fpu().st[i], static_cast<int>(0x30 + i), 10);
    for (unsigned i = 0; i < 16; ++i) {
      std::memset(fpu().xmm[i], static_cast<int>(0x10 + i), 16);
      std::memset(cpu().ymm_high[i], static_cast<int>(0x20 + i), 16);
    }
    fpu().mxcsr = 0x3f80;
  }
  int run(Code code, uint64_t mask = ~uint64_t{0}) {
    cpu().gpr[kRax] = mask & 0xffff'ffff;
    cpu().gpr[kRdx] = mask >> 32;
    cpu().fault = {};
    machine_->code(code);
    return machine_->run() == RunResult::Fault ? cpu().fault.vector : -1;
  }
  template <typename T>
  T peek(uint64_t offset) {
    return machine_->memory().load<T>(Gpa{cpu().gpr[kRsi] + offset}).value();
  }
  template <typename T>
  void poke(uint64_t offset, T value) {
    ASSERT_TRUE(machine_->memory().store<T>(Gpa{cpu().gpr[kRsi] + offset}, value));
  }
  void fill_area(uint8_t value) {
    std::memset(machine_->memory().host(Gpa{kData - kPageSize}, 2 * kPageSize), value,
                2 * kPageSize);
  }

  std::unique_ptr<TestMachine> machine_;
};

TEST_F(Xsave, everything_comes_back) {
  fill_registers();
  const State before = state();
  for (const Code& save : {kXsave, kXsaveopt, kXsavec}) {
    fill_area(0);
    ASSERT_EQ(run(save), -1);
    EXPECT_EQ(peek<uint64_t>(512), 7U);
    EXPECT_EQ(peek<uint64_t>(520), save.begin() == kXsavec.begin() ? kCompacted | 7 : 0);
    clear();
    ASSERT_EQ(run(kXrstor), -1);
    EXPECT_TRUE(is_as(before));
  }
}

TEST_F(Xsave, works_across_pages) {
  fill_registers();
  const State before = state();
  cpu().gpr[kRsi] = kData - 640;  // the upper halves lie across the boundary
  ASSERT_EQ(run(kXsave), -1);
  clear();
  ASSERT_EQ(run(kXrstor), -1);
  EXPECT_TRUE(is_as(before));
}

TEST_F(Xsave, only_what_is_asked_for_is_written) {
  fill_registers();
  fill_area(0xee);
  poke<uint64_t>(512, 3);
  ASSERT_EQ(run(kXsave, 4), -1);
  EXPECT_EQ(peek<uint16_t>(0), 0xeeee);
  EXPECT_EQ(peek<uint32_t>(24), 0x3f80U);  // MXCSR goes with AVX, too
  EXPECT_EQ(peek<uint8_t>(32), 0xee);
  EXPECT_EQ(peek<uint8_t>(160), 0xee);
  EXPECT_EQ(peek<uint8_t>(416), 0xee);
  EXPECT_EQ(peek<uint64_t>(512), 7U);  // the other bits stay
  EXPECT_EQ(peek<uint8_t>(520), 0xee);
  EXPECT_EQ(peek<uint8_t>(576), 0x20);
  EXPECT_EQ(peek<uint8_t>(kAreaBytes), 0xee);
}

TEST_F(Xsave, initial_components_are_told_and_left_out) {
  std::memset(fpu().xmm[3], 1, 16);
  fill_area(0xee);
  poke<uint64_t>(512, 0);
  ASSERT_EQ(run(kXsave), -1);
  EXPECT_EQ(peek<uint64_t>(512), 2U);
  EXPECT_EQ(peek<uint8_t>(576), 0);  // XSAVE writes it all the same
  fill_area(0xee);
  poke<uint64_t>(512, 7);
  ASSERT_EQ(run(kXsaveopt), -1);
  EXPECT_EQ(peek<uint64_t>(512), 2U);
  EXPECT_EQ(peek<uint8_t>(0), 0xee);
  EXPECT_EQ(peek<uint8_t>(576), 0xee);
  fill_area(0xee);
  ASSERT_EQ(run(kXsavec, 6), -1);
  EXPECT_EQ(peek<uint64_t>(512), 2U);
  EXPECT_EQ(peek<uint64_t>(520), kCompacted | 6);
  EXPECT_EQ(peek<uint8_t>(576), 0xee);
}

TEST_F(Xsave, compacted_saves_sse_for_mxcsr_alone) {
  fpu().mxcsr = 0x1fa0;
  ASSERT_EQ(run(kXsavec), -1);
  EXPECT_EQ(peek<uint64_t>(512), 2U);
  EXPECT_EQ(peek<uint32_t>(24), 0x1fa0U);
}

TEST_F(Xsave, restore_initialises_what_the_area_does_not_hold) {
  fill_area(0);
  fill_registers();
  ASSERT_EQ(run(kXrstor, 4), -1);  // only the upper halves
  EXPECT_EQ(cpu().ymm_high[5][0], 0);
  EXPECT_EQ(fpu().xmm[5][0], 0x15);
  EXPECT_EQ(fpu().fcw, 0x27f);
  EXPECT_EQ(fpu().mxcsr, 0U);  // from the area: AVX was asked for
  fpu().mxcsr = 0x3f80;
  poke<uint32_t>(24, 0x1f80);
  ASSERT_EQ(run(kXrstor), -1);
  EXPECT_EQ(components_in_use(cpu()), 0U);
  EXPECT_EQ(fpu().fcw, 0x37f);
  EXPECT_EQ(fpu().mxcsr, 0x1f80U);
}

TEST_F(Xsave, compacted_restore_resets_mxcsr_only_with_sse) {
  fill_area(0);
  fill_registers();
  poke<uint64_t>(520, kCompacted | 7);
  ASSERT_EQ(run(kXrstor, 4), -1);
  EXPECT_EQ(fpu().mxcsr, 0x3f80U);
  ASSERT_EQ(run(kXrstor, 2), -1);
  EXPECT_EQ(fpu().mxcsr, kMxcsrReset);
}

TEST_F(Xsave, bad_headers_are_refused) {
  const auto refused = [this](uint64_t offset, uint64_t value, uint64_t xcomp) {
    fill_area(0);
    poke<uint64_t>(520, xcomp);
    poke<uint64_t>(offset, value);
    return run(kXrstor) == kGP;
  };
  EXPECT_TRUE(refused(512, 8, 0));  // not in XCR0
  EXPECT_TRUE(refused(520, 1, 0));  // XCOMP_BV without bit 63
  EXPECT_TRUE(refused(528, 1, 0));
  EXPECT_FALSE(refused(536, 1, 0));  // ignored in the standard format
  EXPECT_TRUE(refused(536, 1, kCompacted));
  EXPECT_TRUE(refused(568, 1, kCompacted));
  EXPECT_TRUE(refused(512, 4, kCompacted | 3));
  EXPECT_TRUE(refused(520, kCompacted | 8, 0));
  EXPECT_TRUE(refused(24, 0x1'0000, 0));  // MXCSR's reserved bits
  EXPECT_FALSE(refused(24, 0x1'0000, kCompacted | 7));
  EXPECT_FALSE(refused(512, 7, kCompacted | 7));
}

TEST_F(Xsave, faults_in_order) {
  cpu().gpr[kRsi] = kData + 32;
  EXPECT_EQ(run(kXsave), kGP);
  EXPECT_EQ(run(kXrstor), kGP);
  cpu().cr0 |= kCr0Ts;
  EXPECT_EQ(run(kXsave), kNM);
  cpu().cr4 &= ~(uint64_t{1} << 18);
  EXPECT_EQ(run(kXsave), kUD);
  EXPECT_EQ(run(kXrstor), kUD);
}

TEST_F(Xsave, a_save_that_faults_writes_nothing) {
  ASSERT_TRUE(machine_->memory().store<uint64_t>(Gpa{0x3000 + 8 * (kUnmapped >> 21)}, 0));
  fill_registers();
  cpu().gpr[kRsi] = kUnmapped - 640;
  EXPECT_EQ(run(kXsave), kPF);
  EXPECT_EQ(cpu().fault.cr2, kUnmapped);
  EXPECT_EQ(peek<uint16_t>(0), 0);
  EXPECT_EQ(run(kXsave, 3), -1);  // does not reach that far
  EXPECT_EQ(peek<uint16_t>(0), 0x27f);
  const State before = state();
  poke<uint64_t>(512, 7);
  EXPECT_EQ(run(kXrstor), kPF);
  EXPECT_TRUE(is_as(before));
}

TEST_F(Xsave, outside_64_bit_mode_there_are_eight_registers) {
  machine_ = std::make_unique<TestMachine>(TestMode::Protected32, TestMachine::kLevel3);
  cpu().gpr[kRsi] = kData;
  fill_registers();
  fill_area(0xee);
  poke<uint64_t>(512, 0);
  poke<uint64_t>(520, 0);
  poke<uint64_t>(528, 0);
  ASSERT_EQ(run({0x0f, 0xae, 0x26}), -1);  // xsave [esi]
  EXPECT_EQ(peek<uint8_t>(160 + 7 * 16), 0x17);
  EXPECT_EQ(peek<uint8_t>(160 + 8 * 16), 0xee);
  EXPECT_EQ(peek<uint8_t>(576 + 7 * 16), 0x27);
  EXPECT_EQ(peek<uint8_t>(576 + 8 * 16), 0xee);
  std::memset(fpu().xmm, 0, sizeof(fpu().xmm));
  ASSERT_EQ(run({0x0f, 0xae, 0x2e}), -1);  // xrstor [esi]
  EXPECT_EQ(fpu().xmm[7][0], 0x17);
  EXPECT_EQ(fpu().xmm[8][0], 0);
}

TEST_F(Xsave, xcr0_takes_only_valid_values) {
  cpu().gpr[kRcx] = 0;
  for (const uint64_t value : {1U, 3U, 7U}) {
    EXPECT_EQ(run(kXsetbv, value), -1) << value;
    EXPECT_EQ(cpu().xcr0, value);
    ASSERT_EQ(run(kXgetbv), -1);
    EXPECT_EQ(cpu().gpr[kRax], value);
    EXPECT_EQ(cpu().gpr[kRdx], 0U);
  }
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{2}, uint64_t{5}, uint64_t{0xf}, uint64_t{1} << 32 | 7}) {
    EXPECT_EQ(run(kXsetbv, value), kGP) << value;
  }
  EXPECT_EQ(cpu().xcr0, 7U);
  cpu().gpr[kRcx] = 1;
  EXPECT_EQ(run(kXsetbv, 7), kGP);
  std::memset(cpu().ymm_high[0], 1, 1);
  ASSERT_EQ(run(kXgetbv), -1);  // components in use
  EXPECT_EQ(cpu().gpr[kRax], 4U);
  cpu().gpr[kRcx] = 2;
  EXPECT_EQ(run(kXgetbv), kGP);
  cpu().gpr[kRcx] = 0;
  cpu().cpl = 3;
  EXPECT_EQ(run(kXsetbv, 7), kGP);
  cpu().cr4 &= ~(uint64_t{1} << 18);
  EXPECT_EQ(run(kXsetbv, 7), kUD);
  EXPECT_EQ(run(kXgetbv), kUD);
}

TEST_F(Xsave, cpuid_follows_xcr0_and_osxsave) {
  const auto cpuid = [this](uint64_t leaf, uint64_t subleaf) {
    cpu().gpr[kRcx] = subleaf;
    EXPECT_EQ(run({0x0f, 0xa2}, leaf), -1);
  };
  cpuid(0xd, 0);
  EXPECT_EQ(cpu().gpr[kRbx], 832U);
  cpu().xcr0 = 3;
  cpuid(0xd, 0);
  EXPECT_EQ(cpu().gpr[kRbx], 576U);
  EXPECT_EQ(cpu().gpr[kRcx], 832U);
  cpuid(0xd, 1);
  EXPECT_EQ(cpu().gpr[kRbx], 576U);
  cpuid(1, 0);
  EXPECT_NE(cpu().gpr[kRcx] & (1U << 27), 0U);
  cpu().cr4 &= ~(uint64_t{1} << 18);
  cpuid(1, 0);
  EXPECT_EQ(cpu().gpr[kRcx] & (1U << 27), 0U);
}

TEST_F(Xsave, canonical_state_holds_the_upper_halves) {
  fill_registers();
  const VcpuState saved = save_cpu(cpu());
  EXPECT_EQ(saved.xcr0, 7U);
  ASSERT_EQ(saved.xsave.size(), kAreaBytes);
  EXPECT_EQ(static_cast<uint8_t>(saved.xsave[576 + 5 * 16]), 0x25);
  reset_cpu(cpu());
  EXPECT_EQ(cpu().xcr0, 1U);
  EXPECT_EQ(components_in_use(cpu()) & 6, 0U);
  ASSERT_TRUE(restore_cpu(cpu(), saved).has_value());
  EXPECT_EQ(save_cpu(cpu()).xsave, saved.xsave);
  VcpuState initial = saved;  // as XSAVEOPT leaves it: the component is in its initial state
  initial.xsave[512] = std::byte{3};
  ASSERT_TRUE(restore_cpu(cpu(), initial).has_value());
  EXPECT_EQ(cpu().ymm_high[5][0], 0);
  VcpuState bad = saved;
  bad.xsave.resize(512);
  EXPECT_FALSE(restore_cpu(cpu(), bad).has_value());
  bad = saved;
  bad.xcr0 = 5;
  EXPECT_FALSE(restore_cpu(cpu(), bad).has_value());
}

}  // namespace
}  // namespace trapeze::soft::exec
