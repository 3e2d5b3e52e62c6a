#include "accel/soft/system/instructions.h"
#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

class Iret : public SystemTest {
 protected:
  static constexpr uint64_t kFrame = 0x600000;

  // IRET in the given operand size with a frame of RIP, CS, RFLAGS, RSP, SS at the stack's top.
  Step iret(std::initializer_list<uint64_t> frame, unsigned size = 8) {
    uint64_t address = kFrame;
    for (uint64_t value : frame) {
      EXPECT_TRUE(
          machine_->memory().write(Gpa(address), std::as_bytes(std::span(&value, 1)).first(size)));
      address += size;
    }
    cpu().gpr[kRsp] = kFrame;
    Insn insn;
    insn.width = static_cast<uint8_t>(size);
    return system::iret(cpu(), insn);
  }
  void expect_unchanged() {
    EXPECT_EQ(cpu().gpr[kRsp], kFrame);
    EXPECT_EQ(cpu().cpl, 0);
    EXPECT_EQ(cpu().seg[kCs].selector & 3, 0);
  }
};

class Iret64 : public Iret {
 protected:
  void SetUp() override { start(TestMode::Long64); }
};

TEST_F(Iret64, SameLevel_AlwaysRestoresStack) {
  EXPECT_EQ(iret({0x1000, kCode64, 0x202, 0x7777, kData0}), Step::Branch);
  EXPECT_EQ(cpu().rip, 0x1000U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x7777U);
  EXPECT_EQ(cpu().rflags_system & kIf, kIf);
}

TEST_F(Iret64, SameLevel_NullSsIsFine) {
  EXPECT_EQ(iret({0x1000, kCode64, 2, 0x7777, 0}), Step::Branch);
  EXPECT_EQ(cpu().seg[kSs].selector, 0);
  EXPECT_FALSE(is_usable(cpu().seg[kSs]));
}

TEST_F(Iret64, ToUser_LoadsAllAndDropsKernelSegments) {
  cpu().seg[kFs] = {0x5555, 0xffffffff, 0xc0f3, kUserData};
  update_mode(cpu());
  EXPECT_EQ(iret({0x1000, kUserCode64, 0x202, 0x7777, kUserData}), Step::Branch);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().seg[kSs].selector, kUserData);
  EXPECT_EQ(cpu().seg[kDs].selector, 0);
  EXPECT_FALSE(is_usable(cpu().seg[kDs]));
  EXPECT_EQ(cpu().seg[kFs].selector, kUserData);
  EXPECT_EQ(cpu().linear_base[kFs], 0x5555U);
}

TEST_F(Iret64, ToCompatibilityMode_RunsCode32) {
  EXPECT_EQ(iret({0x1000, kUserCode32, 0x202, 0x12345678, kUserData}), Step::Branch);
  EXPECT_EQ(cpu().code_size, CodeSize::Code32);
  EXPECT_EQ(cpu().gpr[kRsp], 0x12345678U);
}

TEST_F(Iret64, NullSsForUser_Gp0) {
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, 3}), Step::Fault);
  expect_fault(kGP, 0);
  expect_unchanged();
}

TEST_F(Iret64, BadStackSegments_NameTheSelector) {
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, kData0}), Step::Fault);  // RPL 0
  expect_fault(kGP, kData0);
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, kData0 | 3}), Step::Fault);  // DPL 0
  expect_fault(kGP, kData0);
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, kUserCode64}), Step::Fault);  // code
  expect_fault(kGP, kUserCode64 & 0xfffc);
  set_gdt_bits(kUserData, 0, uint64_t{1} << 47);
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, kUserData}), Step::Fault);
  expect_fault(kSS, kUserData & 0xfffc);
  expect_unchanged();
}

TEST_F(Iret64, BadCodeSegments_NameTheSelector) {
  EXPECT_EQ(iret({0x1000, 0, 2, 0x7777, kData0}), Step::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(iret({0x1000, kData0, 2, 0x7777, kData0}), Step::Fault);
  expect_fault(kGP, kData0);
  EXPECT_EQ(iret({0x1000, kCode64 | 3, 2, 0x7777, kUserData}), Step::Fault);  // RPL above DPL
  expect_fault(kGP, kCode64);
  EXPECT_EQ(iret({0x1000, 0x2000, 2, 0x7777, kData0}), Step::Fault);
  expect_fault(kGP, 0x2000);
  set_gdt_bits(kUserCode64, 0, uint64_t{1} << 47);
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x7777, kUserData}), Step::Fault);
  expect_fault(kNP, kUserCode64 & 0xfffc);
  set_gdt(kFree, 0x00efff000000ffff);  // L and D
  EXPECT_EQ(iret({0x1000, kFree | 3, 2, 0x7777, kUserData}), Step::Fault);
  expect_fault(kGP, kFree);
  expect_unchanged();
}

TEST_F(Iret64, ToInnerLevel_Gp) {
  enter_user();
  EXPECT_EQ(iret({0x1000, kCode64, 2, 0x7777, kData0}), Step::Fault);
  expect_fault(kGP, kCode64);
}

TEST_F(Iret64, NonCanonicalRip_Gp0BeforeTheSwitch) {
  EXPECT_EQ(iret({0x0000800000000000, kUserCode64, 2, 0x7777, kUserData}), Step::Fault);
  expect_fault(kGP, 0);
  expect_unchanged();
}

TEST_F(Iret64, NonCanonicalRsp_Taken) {
  EXPECT_EQ(iret({0x1000, kUserCode64, 2, 0x0000800000000000, kUserData}), Step::Branch);
  EXPECT_EQ(cpu().gpr[kRsp], 0x0000800000000000U);
}

TEST_F(Iret64, RipBeyondLimitOfCompatibilityCode_Gp0) {
  EXPECT_EQ(iret({0x100000000, kUserCode32, 2, 0x7777, kUserData}), Step::Fault);
  expect_fault(kGP, 0);
}

TEST_F(Iret64, NestedTask_Gp0) {
  cpu().rflags_system |= kNt;
  EXPECT_EQ(iret({0x1000, kCode64, 2, 0x7777, kData0}), Step::Fault);
  expect_fault(kGP, 0);
}

TEST_F(Iret64, UnblocksNmiAlsoWhenItFaults) {
  cpu().nmi_blocked = true;
  EXPECT_EQ(iret({0x1000, 0, 2, 0x7777, kData0}), Step::Fault);
  EXPECT_FALSE(cpu().nmi_blocked);
}

TEST_F(Iret64, UserCannotRaiseIfOrIopl) {
  enter_user();
  cpu().rflags_system = 2 | kIf;
  EXPECT_EQ(iret({0x1000, kUserCode64, 0x3000, 0x7777, kUserData}), Step::Branch);
  EXPECT_EQ(cpu().rflags_system & (kIf | kIopl), kIf);
}

TEST_F(Iret64, OpeningIf_WakesWaitingInterrupt) {
  cpu().rflags_system = 2;
  cpu().irq_window_wanted = true;
  cpu().attention.fetch_and(0, std::memory_order_relaxed);
  EXPECT_EQ(iret({0x1000, kCode64, 0x202, 0x7777, kData0}), Step::Branch);
  EXPECT_EQ(cpu().attention.load(), kAttnInterrupt);
}

TEST_F(Iret64, OperandSize32_PopsDwords) {
  EXPECT_EQ(iret({0x1000, kCode64, 0x202, 0x7777, kData0}, 4), Step::Branch);
  EXPECT_EQ(cpu().rip, 0x1000U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x7777U);
}

class Iret32 : public Iret {
 protected:
  void SetUp() override { start(TestMode::Protected32); }
};

TEST_F(Iret32, SameLevel_PopsThreeWords) {
  EXPECT_EQ(iret({0x1000, kCode32, 0x202}, 4), Step::Branch);
  EXPECT_EQ(cpu().gpr[kRsp], kFrame + 12);
  EXPECT_EQ(cpu().rip, 0x1000U);
}

TEST_F(Iret32, ToUser_PopsStack) {
  EXPECT_EQ(iret({0x1000, kUserCode32, 0x202, 0x7777, kUserData}, 4), Step::Branch);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().gpr[kRsp], 0x7777U);
}

TEST_F(Iret32, To16BitStack_KeepsUpperHalfOfEsp) {
  set_gdt(kFree, 0x0000f3000000ffff);
  EXPECT_EQ(iret({0x1000, kUserCode32, 0x202, 0x12347777, kFree | 3}, 4), Step::Branch);
  EXPECT_EQ(cpu().gpr[kRsp], (kFrame & 0xffff0000) | 0x7777U);
}

TEST_F(Iret32, EipBeyondLimit_Gp0) {
  set_gdt(kFree, 0x0040fb0000000fff);  // byte granularity
  EXPECT_EQ(iret({0x1000, kFree | 3, 0x202, 0x7777, kUserData}, 4), Step::Fault);
  expect_fault(kGP, 0);
}

TEST_F(Iret32, ToVm86_LoadsAllSegments) {
  const uint64_t flags = kVm | kIopl | kIf | 2;
  EXPECT_EQ(iret({0x100, 0x1000, flags, 0x8888, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000}, 4),
            Step::Branch);
  EXPECT_TRUE(is_vm86(cpu()));
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().code_size, CodeSize::Code16);
  EXPECT_EQ(cpu().seg[kCs].base, 0x10000U);
  EXPECT_EQ(cpu().seg[kSs].base, 0x20000U);
  EXPECT_EQ(cpu().seg[kEs].base, 0x30000U);
  EXPECT_EQ(cpu().seg[kDs].base, 0x40000U);
  EXPECT_EQ(cpu().seg[kFs].base, 0x50000U);
  EXPECT_EQ(cpu().seg[kGs].base, 0x60000U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x8888U);
  EXPECT_EQ(cpu().rflags_system & (kVm | kIopl | kIf), kVm | kIopl | kIf);
}

TEST_F(Iret32, InVm86WithLowIopl_Gp0) {
  cpu().rflags_system |= kVm;
  cpu().cpl = 3;
  update_mode(cpu());
  EXPECT_EQ(iret({0x100, 0x1000, 2}, 2), Step::Fault);
  expect_fault(kGP, 0);
}

TEST(IretReal, LoadsIpCsFlags) {
  TestMachine machine(TestMode::Real16);
  Cpu& cpu = machine.cpu();
  machine.memory().store<uint16_t>(Gpa(0x8000), 0x1234);
  machine.memory().store<uint16_t>(Gpa(0x8002), 0x2000);
  machine.memory().store<uint16_t>(Gpa(0x8004), 0x0203);
  cpu.gpr[kRsp] = 0x8000;
  Insn insn;
  insn.width = 2;
  EXPECT_EQ(system::iret(cpu, insn), Step::Branch);
  EXPECT_EQ(cpu.rip, 0x1234U);
  EXPECT_EQ(cpu.seg[kCs].base, 0x20000U);
  EXPECT_EQ(cpu.gpr[kRsp], 0x8006U);
  EXPECT_EQ(rflags(cpu), 0x203U);
}

}  // namespace
}  // namespace trapeze::soft
