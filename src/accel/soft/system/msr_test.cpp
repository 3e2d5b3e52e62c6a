#include "accel/soft/system/msr.h"

#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

class Msr : public SystemTest {
 protected:
  void SetUp() override {
    start(TestMode::Long64);
    clock_.now_ns = 5'000;
    clock_.realtime_base_ns = 1'700'000'000'000'000'000;
    cpu().env->clock = &clock_;
    cpu().env->tsc_zero_ns = 1'000;
  }
  bool takes(uint32_t index, uint64_t value) { return write_msr(cpu(), index, value); }
  uint64_t value_of(uint32_t index) {
    uint64_t value = 0;
    EXPECT_TRUE(read_msr(cpu(), index, value)) << std::hex << index;
    return value;
  }
  FakeClock clock_;
};

TEST_F(Msr, Unknown_Refused) {
  uint64_t value = 0;
  for (uint32_t index : {0x0U, 0x1U, 0x400U, 0xc0010015U, 0x4b564d02U, 0xffffffffU}) {
    EXPECT_FALSE(read_msr(cpu(), index, value)) << std::hex << index;
    EXPECT_FALSE(write_msr(cpu(), index, 0)) << std::hex << index;
  }
}

TEST_F(Msr, ByInstruction_SplitsInEdxEax) {
  cpu().gpr[kRcx] = 0xc0000082;
  cpu().gpr[kRdx] = 0xffffffff12345678;
  cpu().gpr[kRax] = 0xffffffff9abcdef0;
  EXPECT_EQ(run({0x0f, 0x30}), RunResult::Fault);  // 0x123456789abcdef0 is not canonical
  expect_fault(kGP, 0);
  cpu().gpr[kRdx] = 0x12345678ffff8123;
  EXPECT_EQ(run({0x0f, 0x30, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x32}), RunResult::Halted);
  EXPECT_EQ(cpu().lstar, 0xffff81239abcdef0U);
  EXPECT_EQ(cpu().gpr[kRax], 0x9abcdef0U);
  EXPECT_EQ(cpu().gpr[kRdx], 0xffff8123U);
}

TEST_F(Msr, Addresses_MustBeCanonical) {
  for (uint32_t index :
       {0x175U, 0x176U, 0xc0000082U, 0xc0000083U, 0xc0000100U, 0xc0000101U, 0xc0000102U}) {
    EXPECT_FALSE(takes(index, 0x0000800000000000)) << std::hex << index;
    EXPECT_FALSE(takes(index, 0xffff7fffffffffff)) << std::hex << index;
    EXPECT_TRUE(takes(index, 0xffff800000000000)) << std::hex << index;
    EXPECT_EQ(value_of(index), 0xffff800000000000U);
    EXPECT_TRUE(takes(index, 0x00007fffffffffff)) << std::hex << index;
  }
  EXPECT_EQ(cpu().linear_base[kFs], 0x00007fffffffffffU);
}

TEST_F(Msr, Halves_MustBeClear) {
  EXPECT_FALSE(takes(0xc0000084, uint64_t{1} << 32));
  EXPECT_FALSE(takes(0xc0000103, uint64_t{1} << 32));
  EXPECT_TRUE(takes(0xc0000103, 7));
  EXPECT_EQ(run({0x0f, 0x01, 0xf9}), RunResult::Halted);  // rdtscp
  EXPECT_EQ(cpu().gpr[kRcx], 7U);
}

TEST_F(Msr, Efer_ReservedBitsAndLma) {
  const uint64_t efer = cpu().efer;
  EXPECT_FALSE(takes(0xc0000080, efer | 2));
  EXPECT_FALSE(takes(0xc0000080, efer | (1U << 12)));
  EXPECT_FALSE(takes(0xc0000080, efer & ~uint64_t{0x100}));  // LME under paging
  EXPECT_TRUE(takes(0xc0000080, efer & ~uint64_t{0x400}));   // LMA cannot be written
  EXPECT_EQ(cpu().efer, efer);
}

TEST_F(Msr, Pat_ValidTypesOnly) {
  EXPECT_EQ(value_of(0x277), 0x0007040600070406U);
  EXPECT_FALSE(takes(0x277, 0x0007040600070402));
  EXPECT_FALSE(takes(0x277, 0x0807040600070406));
  EXPECT_TRUE(takes(0x277, 0x0007010600070106));
}

TEST_F(Msr, Mtrrs_CheckTypesAndReservedBits) {
  EXPECT_EQ(value_of(0xfe), 0x508U);
  EXPECT_FALSE(takes(0xfe, 0));
  EXPECT_FALSE(takes(0x2ff, 2));
  EXPECT_FALSE(takes(0x2ff, 0x1006));
  EXPECT_TRUE(takes(0x2ff, 0xc06));
  EXPECT_TRUE(takes(0x200, 0xc0000000));
  EXPECT_FALSE(takes(0x200, 0xc0000002));
  EXPECT_TRUE(takes(0x201, 0x3fffc0000800));
  EXPECT_FALSE(takes(0x201, 0x7fffc0000800));
  EXPECT_TRUE(takes(0x20f, 0));
  EXPECT_FALSE(takes(0x210, 0));
  EXPECT_TRUE(takes(0x26f, 0x0606060606060606));
  EXPECT_FALSE(takes(0x26f, 0x0606060606060607));
}

TEST_F(Msr, Tsc_RunsAtOneGhzAndAdjustFollows) {
  EXPECT_EQ(value_of(0x10), 4'000U);
  EXPECT_TRUE(takes(0x10, 10'000));
  EXPECT_EQ(value_of(0x3b), 6'000U);
  clock_.now_ns += 100;
  EXPECT_EQ(value_of(0x10), 10'100U);
  EXPECT_TRUE(takes(0x3b, 0));
  EXPECT_EQ(value_of(0x10), 4'100U);
}

TEST_F(Msr, Rdtsc_TsdKeepsUsersOut) {
  EXPECT_EQ(run({0x0f, 0x31}), RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRax], 4'000U);
  cpu().cr4 |= 4;
  enter_user();
  EXPECT_EQ(run({0x0f, 0x31}), RunResult::Fault);
  expect_fault(kGP, 0);
}

TEST_F(Msr, KvmClock_WritesTimeThatMatchesTheTsc) {
  constexpr uint64_t kPage = 0x200100;
  store<uint32_t>(kPage, 3);
  EXPECT_FALSE(takes(0x4b564d01, kPage | 3));
  EXPECT_TRUE(takes(0x4b564d01, kPage | 1));
  EXPECT_EQ(at<uint32_t>(kPage) % 2, 0U);
  EXPECT_EQ(at<uint64_t>(kPage + 8), 4'000U);   // tsc_timestamp
  EXPECT_EQ(at<uint64_t>(kPage + 16), 4'000U);  // system_time
  EXPECT_EQ(at<uint8_t>(kPage + 29), 1);        // stable
  // The guest's formula: ((tsc - timestamp) << shift) * mul >> 32.
  const auto shift = at<int8_t>(kPage + 28);
  const uint64_t mul = at<uint32_t>(kPage + 24);
  EXPECT_EQ(((uint64_t{123'456} << shift) * mul) >> 32, 123'456U);
  EXPECT_TRUE(takes(0x10, 1'000'000));  // the clock follows a moved TSC
  EXPECT_EQ(at<uint64_t>(kPage + 8), 1'000'000U);
  EXPECT_EQ(at<uint64_t>(kPage + 16), 4'000U);
  EXPECT_EQ(at<uint8_t>(kPage + 29), 0);
}

TEST_F(Msr, KvmClockOutsideRam_HarmsNobody) {
  EXPECT_TRUE(takes(0x4b564d01, 0xfffffffffffff001));
  EXPECT_TRUE(takes(0x4b564d00, 0xfffffffffffffffc));
  EXPECT_TRUE(takes(0x4b564d01, 0xfffff0 | 1));  // the structure crosses the end of RAM
}

TEST_F(Msr, KvmWallClock_TellsWhenTheSystemClockWasZero) {
  EXPECT_TRUE(takes(0x4b564d00, 0x200000));
  EXPECT_EQ(at<uint32_t>(0x200000) % 2, 0U);
  EXPECT_EQ(at<uint32_t>(0x200004), 1'700'000'000U);
  EXPECT_EQ(at<uint32_t>(0x200008), 1'000U);
}

TEST_F(Msr, ApicRegisters_MissingWithoutApic) {
  uint64_t value = 0;
  for (uint32_t index : {0x1bU, 0x6e0U, 0x802U, 0x830U})
    EXPECT_FALSE(read_msr(cpu(), index, value)) << std::hex << index;
}

TEST_F(Msr, Constants_AreReadOnly) {
  EXPECT_FALSE(takes(0x3a, 1));
  EXPECT_FALSE(takes(0x10a, 0));
  EXPECT_FALSE(takes(0x179, 0));
  EXPECT_EQ(value_of(0x10a), cpu().env->model->arch_capabilities());
  EXPECT_EQ(value_of(0x1a0) & 1, 1U);  // fast strings: kernels use REP MOVSB only then
}

TEST_F(Msr, SaveAndRestore_KeepsAllState) {
  takes(0xc0000082, 0xffffffff81000000);
  takes(0x277, 0x0007010600070106);
  takes(0x10, 77'000);
  cpu().gpr[kR9] = 99;
  cpu().fpu.st[3][0] = 42;
  cpu().fpu.fsw = 3 << 11;
  cpu().fpu.empty = 0xf0;
  cpu().fpu.xmm[5][7] = 17;
  const VcpuState state = save_cpu(cpu());
  EXPECT_EQ(static_cast<uint8_t>(state.xsave[32]), 42);  // ST0 is R3
  reset_cpu(cpu());
  ASSERT_TRUE(restore_cpu(cpu(), state).has_value());
  EXPECT_EQ(cpu().lstar, 0xffffffff81000000U);
  EXPECT_EQ(value_of(0x10), 77'000U);
  EXPECT_EQ(cpu().fpu.st[3][0], 42);
  EXPECT_EQ(cpu().fpu.empty, 0xf0);
  EXPECT_EQ(save_cpu(cpu()), state);
}

TEST_F(Msr, Restore_RefusesShortFpuImageAndUnknownMsr) {
  VcpuState state = save_cpu(cpu());
  state.msrs.push_back({0x12345, 1});
  EXPECT_FALSE(restore_cpu(cpu(), state).has_value());
  state = save_cpu(cpu());
  state.xsave.resize(100);
  EXPECT_FALSE(restore_cpu(cpu(), state).has_value());
}

TEST_F(Msr, RestoreFromAnotherAccelerator_LosesOnlyWhatDoesNotMatter) {
  VcpuState state = save_cpu(cpu());
  state.msrs.push_back({0x34, 0});        // SMI_COUNT
  state.msrs.push_back({0x10a, 0xdeb});   // ARCH_CAPABILITIES of that host
  state.msrs.push_back({0x4b564d03, 0});  // steal time, off
  ASSERT_TRUE(restore_cpu(cpu(), state).has_value());
  state.msrs.push_back({0x4b564d03, 0x1001});  // on: the guest waits for numbers there
  const auto refused = restore_cpu(cpu(), state);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("0x4b564d03"), std::string::npos);
}

TEST_F(Msr, RestoreOfWhatThisCpuLacks_IsRefusedByName) {
  const VcpuState good = save_cpu(cpu());
  const auto error_of = [&](const VcpuState& state) {
    const auto restored = restore_cpu(cpu(), state);
    return restored ? std::string() : restored.error().message;
  };
  VcpuState state = good;
  state.xcr0 = 7;
  EXPECT_NE(error_of(state).find("XCR0 0x7"), std::string::npos);
  state = good;
  state.cr4 |= uint64_t{1} << 22;  // protection keys
  EXPECT_NE(error_of(state).find("CR4"), std::string::npos);
  state = good;
  state.efer |= uint64_t{1} << 12;  // SVM
  EXPECT_NE(error_of(state).find("EFER"), std::string::npos);
  state = good;
  state.events.interrupt_injected = true;
  EXPECT_NE(error_of(state).find("half delivered"), std::string::npos);
}

}  // namespace
}  // namespace trapeze::soft
