#include "accel/soft/system/task.h"

#include "accel/soft/system/debug.h"
#include "accel/soft/system/events.h"
#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kNewTss = 0x340000;

class Task : public SystemTest {
 protected:
  void SetUp() override {
    start(TestMode::Protected32);
    set_gdt(kFree, 0x0000890000000067 | (kNewTss & 0xffffff) << 16);
    store<uint32_t>(kNewTss + 0x20, kHandler);  // EIP
    store<uint32_t>(kNewTss + 0x24, 0x202);
    for (unsigned i = 0; i < 8; ++i) store<uint32_t>(kNewTss + 0x28 + i * 4, 0x100 + i);
    store<uint32_t>(kNewTss + 0x28 + 4 * kRsp, 0x600000);
    constexpr uint16_t kSelectors[] = {kData0, kCode32, kData0, kData0, 0, 0};
    for (unsigned i = 0; i < 6; ++i) store<uint32_t>(kNewTss + 0x48 + i * 4, kSelectors[i]);
    store<uint8_t>(kHandler, 0xf4);
  }
  unsigned type_of(uint16_t selector) { return (at<uint64_t>(kGdt + selector) >> 40) & 0xf; }
};

TEST_F(Task, FarCall_SwitchesAndLinksBack) {
  cpu().gpr[kRbx] = 0x777;
  // call 0x50:0
  EXPECT_EQ(run({0x9a, 0, 0, 0, 0, kFree, 0}), RunResult::Halted);
  EXPECT_EQ(cpu().tr.selector, kFree);
  EXPECT_EQ(cpu().gpr[kRbx], 0x100U + kRbx);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U);
  EXPECT_EQ(cpu().rflags_system & kNt, kNt);
  EXPECT_EQ(cpu().cr0 & 8, 8U);  // TS
  EXPECT_EQ(at<uint16_t>(kNewTss), kTssSel);
  EXPECT_EQ(type_of(kTssSel), kTypeTss32Busy);
  EXPECT_EQ(type_of(kFree), kTypeTss32Busy);
  EXPECT_EQ(at<uint32_t>(kTss + 0x20), TestMachine::kCode + 7);
  EXPECT_EQ(at<uint32_t>(kTss + 0x28 + 4 * kRbx), 0x777U);
  EXPECT_FALSE(is_usable(cpu().seg[kFs]));

  // IRET takes the way back.
  store<uint8_t>(kHandler + 1, 0xcf);
  cpu().rip = kHandler + 1;
  cpu().halted = false;
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(cpu().tr.selector, kTssSel);
  EXPECT_EQ(cpu().gpr[kRbx], 0x777U);
  EXPECT_EQ(type_of(kFree), kTypeTss32);
}

TEST_F(Task, FarJmp_LeavesTheOldTaskAvailable) {
  EXPECT_EQ(run({0xea, 0, 0, 0, 0, kFree, 0}), RunResult::Halted);
  EXPECT_EQ(type_of(kTssSel), kTypeTss32);
  EXPECT_EQ(cpu().rflags_system & kNt, 0U);
}

TEST_F(Task, TrapFlagOfTheTss_IsTakenBeforeTheNewTasksFirstInstruction) {
  store<uint16_t>(kNewTss + 0x64, 1);
  EXPECT_EQ(run({0xea, 0, 0, 0, 0, kFree, 0}), RunResult::Fault);
  EXPECT_EQ(cpu().fault.vector, kDB);
  EXPECT_EQ(cpu().fault.dr6, kDr6Bt);
  EXPECT_EQ(cpu().rip, kHandler);
  EXPECT_EQ(cpu().tr.selector, kFree);
}

TEST_F(Task, TaskGateForException_PushesErrorCodeInNewTask) {
  store<uint64_t>(kIdt + kGP * 8, (uint64_t{kFree} << 16) | (uint64_t{0x85} << 40));
  raise(cpu(), kGP, 0x1234);
  cpu().rip = 0x4444;
  deliver_fault(cpu());
  EXPECT_EQ(cpu().rip, kHandler);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U - 4);
  EXPECT_EQ(stack32(0), 0x1234U);
  EXPECT_EQ(at<uint32_t>(kTss + 0x20), 0x4444U);
}

TEST_F(Task, Checks_NameTheTss) {
  TaskSwitch task;
  task.selector = kTssSel;  // busy
  EXPECT_FALSE(switch_task(cpu(), task));
  expect_fault(kGP, kTssSel);
  task.selector = kFree;
  set_gdt_bits(kFree, 0, uint64_t{1} << 47);
  EXPECT_FALSE(switch_task(cpu(), task));
  expect_fault(kNP, kFree);
  set_gdt(kFree, 0x0000890000000066 | (kNewTss & 0xffffff) << 16);  // one byte short
  EXPECT_FALSE(switch_task(cpu(), task));
  expect_fault(kTS, kFree);
  task.source = TaskSource::Iret;  // wants a busy one
  EXPECT_FALSE(switch_task(cpu(), task));
  expect_fault(kTS, kFree);
  EXPECT_EQ(cpu().tr.selector, kTssSel);
}

TEST_F(Task, BadSegmentInNewTask_TsIsDeliveredThere) {
  store<uint32_t>(kNewTss + 0x50, kCode32);  // SS
  gate(kTS);
  store<uint8_t>(handler_of(kTS), 0xf4);
  EXPECT_EQ(run({0xea, 0, 0, 0, 0, kFree, 0}), RunResult::ShutDown);  // no stack to push on
  EXPECT_EQ(cpu().tr.selector, kFree);
}

class Gates : public SystemTest {
 protected:
  void call_gate32(uint16_t selector, unsigned dpl, unsigned parameters) {
    set_gdt(selector, gate_low(kHandler, kCode32, kTypeCallGate32, dpl, 0, true) |
                          (uint64_t{parameters} << 32));
    store<uint8_t>(kHandler, 0xf4);
  }
};

TEST_F(Gates, CallGate32_CopiesParametersToInnerStack) {
  start(TestMode::Protected32);
  call_gate32(kFree, 3, 2);
  enter_user();
  store<uint32_t>(kUserStack, 0xaaaa);
  store<uint32_t>(kUserStack + 4, 0xbbbb);
  EXPECT_EQ(run({0x9a, 0, 0, 0, 0, kFree | 3, 0}), RunResult::Halted);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[kRsp], kRsp0 - 24);
  EXPECT_EQ(stack32(0), TestMachine::kCode + 7);
  EXPECT_EQ(stack32(1), kUserCode32);
  EXPECT_EQ(stack32(2), 0xaaaaU);
  EXPECT_EQ(stack32(3), 0xbbbbU);
  EXPECT_EQ(stack32(4), kUserStack);
  EXPECT_EQ(stack32(5), kUserData);
  // retf 8: back to the user, both stacks without the parameters.
  store<uint32_t>(kHandler + 1, 0x000008ca);
  store<uint32_t>(kRsp0 - 24, kHandler + 0x100);
  cpu().rip = kHandler + 1;
  cpu().halted = false;
  store<uint8_t>(kHandler + 0x100, 0xf4);
  EXPECT_EQ(machine_->run(), RunResult::Fault);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().gpr[kRsp], kUserStack + 8);
  EXPECT_EQ(cpu().rip, kHandler + 0x100);
}

TEST_F(Gates, CallGateAboveCpl_GpNamesTheGate) {
  start(TestMode::Protected32);
  call_gate32(kFree, 0, 0);
  enter_user();
  EXPECT_EQ(run({0x9a, 0, 0, 0, 0, kFree | 3, 0}), RunResult::Fault);
  expect_fault(kGP, kFree);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().gpr[kRsp], kUserStack);
}

TEST_F(Gates, JumpThroughGateToInnerLevel_Gp) {
  start(TestMode::Protected32);
  call_gate32(kFree, 3, 0);
  enter_user();
  EXPECT_EQ(run({0xea, 0, 0, 0, 0, kFree | 3, 0}), RunResult::Fault);
  expect_fault(kGP, kCode32);
}

TEST_F(Gates, CallGate64_PushesFourWordsOnRsp0) {
  start(TestMode::Long64);
  set_gdt(kFree, gate_low(kHandler, kCode64, kTypeCallGate32, 3, 0, true));
  set_gdt(kFree + 8, 0);
  store<uint8_t>(kHandler, 0xf4);
  enter_user();
  store<uint32_t>(TestMachine::kData, 0);
  store<uint16_t>(TestMachine::kData + 4, kFree | 3);
  cpu().gpr[kRax] = TestMachine::kData;
  EXPECT_EQ(run({0xff, 0x18}), RunResult::Halted);  // call far [rax]
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[kRsp], kRsp0 - 32);
  EXPECT_EQ(stack64(0), TestMachine::kCode + 2);
  EXPECT_EQ(stack64(1), kUserCode64);
  EXPECT_EQ(stack64(2), kUserStack);
  EXPECT_EQ(stack64(3), kUserData);
  EXPECT_EQ(cpu().seg[kSs].selector, 0);
}

TEST_F(Gates, FarBranchChecks64) {
  start(TestMode::Long64);
  cpu().gpr[kRax] = TestMachine::kData;
  auto jump = [&](uint16_t selector) {
    store<uint32_t>(TestMachine::kData, 0x1000);
    store<uint16_t>(TestMachine::kData + 4, selector);
    return run({0xff, 0x28});  // jmp far [rax]
  };
  EXPECT_EQ(jump(0), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(jump(kData0), RunResult::Fault);
  expect_fault(kGP, kData0);
  EXPECT_EQ(jump(kUserCode64), RunResult::Fault);  // other level
  expect_fault(kGP, kUserCode64 & 0xfffc);
  EXPECT_EQ(jump(kTssSel), RunResult::Fault);  // no tasks in IA-32e mode
  expect_fault(kGP, kTssSel);
  set_gdt(kFree, 0x00ef9b000000ffff);  // L and D
  EXPECT_EQ(jump(kFree), RunResult::Fault);
  expect_fault(kGP, kFree);
  set_gdt(kFree, 0x00af1b000000ffff);  // not present
  EXPECT_EQ(jump(kFree), RunResult::Fault);
  expect_fault(kNP, kFree);
}

class Ports : public SystemTest {};

TEST_F(Ports, Bitmap_DecidesForUsers) {
  start(TestMode::Protected32);
  cpu().tr.limit = 0x2fff;
  store<uint16_t>(kTss + 0x66, 0x68);
  enter_user();
  cpu().gpr[kRdx] = 0x3f8;
  EXPECT_EQ(run({0xec, 0xee}), RunResult::Fault);  // allowed; then HLT faults
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 2);
  expect_fault(kGP, 0);
  store<uint8_t>(kTss + 0x68 + 0x3f8 / 8, 0x02);   // port 0x3f9
  EXPECT_EQ(run({0xec, 0xed}), RunResult::Fault);  // byte allowed, dword not
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 1);
  expect_fault(kGP, 0);
  cpu().tr.limit = 0x68 + 0x3f8 / 8;  // the second byte of the map is outside
  EXPECT_EQ(run({0xec}), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode);
  expect_fault(kGP, 0);
}

TEST_F(Ports, Iopl3_NeedsNoBitmap) {
  start(TestMode::Long64);
  enter_user();
  cpu().rflags_system |= kIopl;
  cpu().gpr[kRdx] = 0x80;
  cpu().gpr[kRax] = 0;
  EXPECT_EQ(run({0xed}), RunResult::Fault);
  EXPECT_EQ(cpu().rip, TestMachine::kCode + 1);
  EXPECT_EQ(cpu().gpr[kRax], 0xffffffffU);  // nothing there
}

TEST_F(Ports, RepInsb_FillsMemoryAndStopsAtAFault) {
  start(TestMode::Long64);
  cpu().gpr[kRdx] = 0x80;
  cpu().gpr[kRcx] = 3;
  cpu().gpr[kRdi] = TestMachine::kData;
  EXPECT_EQ(run({0xf3, 0x6c}), RunResult::Halted);
  EXPECT_EQ(at<uint32_t>(TestMachine::kData), 0x00ffffffU);
  EXPECT_EQ(cpu().gpr[kRcx], 0U);
  EXPECT_EQ(cpu().gpr[kRdi], TestMachine::kData + 3);
  cpu().gpr[kRcx] = 4;
  cpu().gpr[kRdi] = 0x40000000 - 2;  // the map ends at 1 GiB
  EXPECT_EQ(run({0xf3, 0x6c}), RunResult::Fault);
  EXPECT_EQ(cpu().fault.vector, kPF);
  EXPECT_EQ(cpu().gpr[kRcx], 2U);
  EXPECT_EQ(cpu().gpr[kRdi], 0x40000000U);
}

}  // namespace
}  // namespace trapeze::soft
