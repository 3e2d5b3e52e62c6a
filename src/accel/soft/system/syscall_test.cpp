#include "accel/soft/system/debug.h"
#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

class Syscall : public SystemTest {
 protected:
  void SetUp() override {
    start(TestMode::Long64);
    cpu().star = (uint64_t{0x2b} << 48) | (uint64_t{kCode64} << 32);
    cpu().lstar = TestMachine::kCode + 0x100;
    store<uint8_t>(TestMachine::kCode + 0x100, 0xf4);
  }
};

TEST_F(Syscall, EntersKernelAndMasksFlags) {
  enter_user();
  cpu().rflags_system = 2 | kIf | kDf;
  cpu().arith = kArithCf;
  cpu().sfmask = kIf | kDf | kCf;
  EXPECT_EQ(run({0x0f, 0x05}), RunResult::Halted);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[kRcx], TestMachine::kCode + 2);
  EXPECT_EQ(cpu().gpr[kR11], 2 | kIf | kDf | kCf);
  EXPECT_EQ(rflags(cpu()), 2U);
  EXPECT_FALSE(cpu().df);
  EXPECT_EQ(cpu().seg[kCs], (Segment{0, 0xffffffff, 0xa09b, kCode64}));
  EXPECT_EQ(cpu().seg[kSs], (Segment{0, 0xffffffff, 0xc093, kCode64 + 8}));
  EXPECT_EQ(cpu().gpr[kRsp], kUserStack);
}

TEST_F(Syscall, Disabled_IsUndefined) {
  cpu().efer &= ~uint64_t{1};
  EXPECT_EQ(run({0x0f, 0x05}), RunResult::Fault);
  EXPECT_EQ(cpu().fault.vector, kUD);
}

TEST_F(Syscall, InCompatibilityMode_GoesToCstar) {
  cpu().cstar = TestMachine::kCode + 0x100;
  cpu().lstar = 0;
  enter_user();
  cpu().seg[kCs] = {0, 0xffffffff, 0xc0fb, kUserCode32};
  update_mode(cpu());
  EXPECT_EQ(run({0x0f, 0x05}), RunResult::Halted);
  EXPECT_EQ(cpu().code_size, CodeSize::Code64);
}

TEST_F(Syscall, MaskedTf_StepsNoKernelCode) {
  cpu().sfmask = kTf;
  enter_user();
  machine_->code({0x0f, 0x05});
  set_rflags(cpu(), kTf, kTf);
  EXPECT_EQ(machine_->run(), RunResult::Halted);
}

TEST_F(Syscall, SysretThatSetsTf_TrapsRightBehindIt) {
  cpu().gpr[kRcx] = TestMachine::kCode + 0x100;
  cpu().gpr[kR11] = kTf | 2;
  EXPECT_EQ(run({0x48, 0x0f, 0x07}), RunResult::Fault);
  EXPECT_EQ(cpu().fault.vector, kDB);
  EXPECT_EQ(cpu().fault.dr6, kDr6Bs);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 0x100);
}

TEST_F(Syscall, Sysret64_LoadsUserSegmentsAndFlags) {
  cpu().gpr[kRcx] = TestMachine::kCode + 0x100;
  cpu().gpr[kR11] = ~uint64_t{0} & ~kTf;
  EXPECT_EQ(run({0x48, 0x0f, 0x07}), RunResult::Fault);  // HLT is not for users
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 0x100);
  EXPECT_EQ(cpu().seg[kCs], (Segment{0, 0xffffffff, 0xa0fb, 0x3b}));
  EXPECT_EQ(cpu().seg[kSs], (Segment{0, 0xffffffff, 0xc0f3, 0x33}));
  EXPECT_EQ(rflags(cpu()), (0x3c7fd7U & ~(kRf | kVm | kTf)));
}

TEST_F(Syscall, Sysret32_GoesToCompatibilityMode) {
  cpu().gpr[kRcx] = 0xffffffff00000000 | (TestMachine::kCode + 0x100);
  cpu().gpr[kR11] = 2;
  EXPECT_EQ(run({0x0f, 0x07}), RunResult::Fault);
  EXPECT_EQ(cpu().code_size, CodeSize::Code32);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 0x100);
  EXPECT_EQ(cpu().seg[kCs].selector, 0x2b);
}

TEST_F(Syscall, SysretToNonCanonical_Gp0AtCpl0) {
  cpu().gpr[kRcx] = 0x0000800000000000;
  EXPECT_EQ(run({0x48, 0x0f, 0x07}), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(cpu().cpl, 0);
}

TEST_F(Syscall, SysenterAndSysexit) {
  cpu().sysenter_cs = kCode64;
  cpu().sysenter_esp = 0x600000;
  cpu().sysenter_eip = TestMachine::kCode + 0x100;
  enter_user();
  cpu().rflags_system |= kIf;
  EXPECT_EQ(run({0x0f, 0x34}), RunResult::Halted);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U);
  EXPECT_EQ(cpu().rflags_system & kIf, 0U);
  cpu().gpr[kRdx] = TestMachine::kCode + 0x100;
  cpu().gpr[kRcx] = kUserStack;
  EXPECT_EQ(run({0x48, 0x0f, 0x35}), RunResult::Fault);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().seg[kCs].selector, kCode64 + 32 + 3);
  EXPECT_EQ(cpu().seg[kSs].selector, kCode64 + 40 + 3);
  EXPECT_EQ(cpu().gpr[kRsp], kUserStack);
}

TEST_F(Syscall, SysenterWithNullCs_Gp0) {
  cpu().sysenter_cs = 3;
  EXPECT_EQ(run({0x0f, 0x34}), RunResult::Fault);
  expect_fault(kGP, 0);
}

TEST_F(Syscall, Swapgs_ExchangesBases) {
  cpu().kernel_gs_base = 0xffff888000000000;
  cpu().seg[kGs].base = 0x1234;
  EXPECT_EQ(run({0x0f, 0x01, 0xf8}), RunResult::Halted);
  EXPECT_EQ(cpu().kernel_gs_base, 0x1234U);
  EXPECT_EQ(cpu().linear_base[kGs], 0xffff888000000000U);
}

TEST_F(Syscall, FsgsBase_NeedsCr4AndCanonicalValues) {
  cpu().gpr[kRax] = 0x1234;
  EXPECT_EQ(run({0xf3, 0x48, 0x0f, 0xae, 0xd0}), RunResult::Fault);  // wrfsbase rax
  EXPECT_EQ(cpu().fault.vector, kUD);
  cpu().fault = {};
  cpu().cr4 |= 1U << 16;
  EXPECT_EQ(run({0xf3, 0x48, 0x0f, 0xae, 0xd0}), RunResult::Halted);
  EXPECT_EQ(cpu().linear_base[kFs], 0x1234U);
  cpu().gpr[kRax] = 0x0000800000000000;
  EXPECT_EQ(run({0xf3, 0x48, 0x0f, 0xae, 0xd8}), RunResult::Fault);  // wrgsbase rax
  expect_fault(kGP, 0);
  EXPECT_EQ(run({0xf3, 0x48, 0x0f, 0xae, 0xc3}), RunResult::Halted);  // rdfsbase rbx
  EXPECT_EQ(cpu().gpr[kRbx], 0x1234U);
}

class Debug : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Long64); }
  void arm(unsigned i, uint64_t address, unsigned kind, unsigned length) {
    cpu().dr[i] = address;
    cpu().dr7 |= (2U << (2 * i)) | (uint64_t{kind | length << 2} << (16 + 4 * i));
    cpu().attention.fetch_or(kAttnStep);
    flush_tlb(cpu());
  }
  void expect_debug(uint64_t dr6) {
    ASSERT_TRUE(cpu().fault.pending);
    EXPECT_EQ(cpu().fault.vector, kDB);
    EXPECT_EQ(cpu().fault.dr6, dr6);
    cpu().fault = {};
  }
};

TEST_F(Debug, Tf_TrapsBehindEachInstruction) {
  machine_->code({0x90, 0x90});
  set_rflags(cpu(), kTf, kTf);
  EXPECT_EQ(machine_->run(), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 1);
  expect_debug(kDr6Bs);
}

TEST_F(Debug, PopfThatSetsTf_TrapsBehindTheNextInstruction) {
  // pushfq; or dword [rsp], 0x100; popfq; nop; nop
  EXPECT_EQ(run({0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0x90}), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 10);
  expect_debug(kDr6Bs);
}

TEST_F(Debug, ExecutionBreakpoint_FaultsBeforeAndRfGetsPast) {
  arm(1, TestMachine::kCode + 1, 0, 0);
  machine_->code({0x90, 0x90});
  EXPECT_EQ(machine_->run(), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 1);
  expect_debug(2);
  cpu().rflags_system |= kRf;
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(cpu().rflags_system & kRf, 0U);
}

TEST_F(Debug, DataBreakpoint_TrapsBehindTheWrite) {
  arm(0, TestMachine::kData + 4, 1, 3);
  cpu().gpr[kRbx] = TestMachine::kData;
  machine_->code({0x8b, 0x43, 0x04, 0x89, 0x43, 0x02, 0x90});  // read it, write across it, nop
  EXPECT_EQ(machine_->run(), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 6);
  expect_debug(1);
}

TEST_F(Debug, IoBreakpoint_NeedsDe) {
  arm(2, 0x3f8, 2, 0);
  cpu().gpr[kRdx] = 0x3f8;
  EXPECT_EQ(run({0xec, 0x90}), RunResult::Halted);  // in al, dx
  cpu().cr4 |= 8;
  EXPECT_EQ(run({0xec, 0x90}), RunResult::Fault);
  expect_debug(4);
}

TEST_F(Debug, MovSsShadow_HoldsTheTrapBack) {
  cpu().gpr[kRax] = kData0;
  machine_->code({0x8e, 0xd0, 0x90, 0x90});
  set_rflags(cpu(), kTf, kTf);
  EXPECT_EQ(machine_->run(), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 3);
  expect_debug(kDr6Bs);
}

TEST_F(Debug, Int1_DeliversWithoutPrivilegeCheck) {
  gate(kDB);
  enter_user();
  store<uint8_t>(handler_of(kDB), 0xf4);
  EXPECT_EQ(run({0xf1}), RunResult::Halted);
  EXPECT_EQ(stack64(0), TestMachine::kCode + 1);
}

TEST_F(Debug, Int1BehindMovSs_IsTheOnlyDebugException) {
  gate(kDB);
  store<uint8_t>(handler_of(kDB), 0xf4);
  store<uint16_t>(TestMachine::kData, kData0);
  arm(1, TestMachine::kData, 3, 1);
  cpu().gpr[kRbx] = TestMachine::kData;
  machine_->code({0x8e, 0x13, 0xf1, 0x90});  // mov ss, [rbx]; int1; nop
  set_rflags(cpu(), kTf, kTf);
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(stack64(0), TestMachine::kCode + 3);
  EXPECT_EQ(cpu().dr6 & 0xf, 2U);
  EXPECT_EQ(cpu().dr6 & kDr6Bs, 0U);
}

TEST_F(Debug, SoftwareInterrupt_IsNotSteppedInto) {
  gate(0x40);
  store<uint8_t>(handler_of(0x40), 0xf4);
  machine_->code({0xcd, 0x40});
  set_rflags(cpu(), kTf, kTf);
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(stack64(2) & kTf, kTf);
}

}  // namespace
}  // namespace trapeze::soft
