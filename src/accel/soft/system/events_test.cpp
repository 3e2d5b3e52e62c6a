#include "accel/soft/system/events.h"

#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

class Events64 : public SystemTest {
 protected:
  void SetUp() override {
    start(TestMode::Long64);
    cpu().rip = 0x123456;
    cpu().rflags_system = 2 | kIf;
    cpu().gpr[kRsp] = 0x600008;
  }
  void raise_and_deliver(uint8_t vector, uint32_t error_code) {
    raise(cpu(), vector, error_code);
    deliver_fault(cpu());
  }
  void expect_in_handler(unsigned vector) { EXPECT_EQ(cpu().rip, handler_of(vector)); }
};

TEST_F(Events64, InterruptAtSameLevel_AlignsStackAndPushesFiveWords) {
  gate(0x40);
  cpu().arith = kArithCf;
  deliver_interrupt(cpu(), 0x40);
  expect_in_handler(0x40);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U - 40);
  EXPECT_EQ(stack64(0), 0x123456U);
  EXPECT_EQ(stack64(1), kCode64);
  EXPECT_EQ(stack64(2), 0x203U);
  EXPECT_EQ(stack64(3), 0x600008U);
  EXPECT_EQ(stack64(4), kData0);
  EXPECT_EQ(cpu().rflags_system & kIf, 0U);
  EXPECT_EQ(cpu().seg[kSs].selector, kData0);
}

TEST_F(Events64, InterruptFromUser_SwitchesToRsp0AndNullSs) {
  gate(0x40);
  enter_user();
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_EQ(cpu().gpr[kRsp], kRsp0 - 40);
  EXPECT_EQ(cpu().seg[kSs].selector, 0);
  EXPECT_FALSE(is_usable(cpu().seg[kSs]));
  EXPECT_EQ(cpu().seg[kCs].selector, kCode64);
  EXPECT_EQ(stack64(1), kUserCode64);
  EXPECT_EQ(stack64(3), kUserStack);
  EXPECT_EQ(stack64(4), kUserData);
}

TEST_F(Events64, CompatibilityModeUser_InterruptRunsIn64BitCode) {
  gate(0x40);
  enter_user();
  cpu().seg[kCs] = {0, 0xffffffff, 0xc0fb, kUserCode32};
  update_mode(cpu());
  ASSERT_EQ(cpu().code_size, CodeSize::Code32);
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().code_size, CodeSize::Code64);
  EXPECT_EQ(stack64(1), kUserCode32);
}

TEST_F(Events64, Ist_UsedAlsoAtSameLevel) {
  gate(0x40, {.ist = 1});
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().gpr[kRsp], kIst1 - 40);
  EXPECT_EQ(stack64(3), 0x600008U);
}

TEST_F(Events64, TrapGate_LeavesIf) {
  gate(0x40, {.type = kTypeTrapGate32});
  cpu().rflags_system |= kTf | kNt;
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().rflags_system & (kIf | kTf | kNt), kIf);
}

TEST_F(Events64, Fault_PushesErrorCodeAndRf) {
  gate(kGP);
  raise_and_deliver(kGP, 0x18);
  expect_in_handler(kGP);
  EXPECT_EQ(stack64(0), 0x18U);
  EXPECT_EQ(stack64(1), 0x123456U);
  EXPECT_EQ(stack64(3) & kRf, kRf);
  EXPECT_EQ(cpu().rflags_system & kRf, 0U);
}

TEST_F(Events64, DebugTrap_SetsDr6ClearsGdAndPushesNoRf) {
  gate(kDB);
  cpu().dr6 = 0xffff0ff1;
  cpu().dr7 = 0x2400;
  raise(cpu(), kDB);
  cpu().fault.dr6 = 1U << 14;
  deliver_fault(cpu());
  EXPECT_EQ(cpu().dr6, 0xffff4ff0U);
  EXPECT_EQ(cpu().dr7, 0x400U);
  EXPECT_EQ(stack64(2) & kRf, 0U);
}

TEST_F(Events64, SoftwareInterrupt_GateAboveCpl_GpNamesTheGate) {
  gate(0x80);
  enter_user();
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0x80 * 8 + 2);
}

TEST_F(Events64, SoftwareInterrupt_GateForUsers_GoesThrough) {
  gate(0x80, {.dpl = 3});
  enter_user();
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 0x777), Step::Branch);
  EXPECT_EQ(stack64(0), 0x777U);
}

TEST_F(Events64, SoftwareInterrupt_GateNotPresent_NpNamesTheGate) {
  gate(0x80, {.present = false});
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kNP, 0x80 * 8 + 2);
}

TEST_F(Events64, SoftwareInterrupt_BeyondIdtLimit_GpNamesTheGate) {
  cpu().idtr.limit = 0x80 * 16 + 14;
  gate(0x80);
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0x80 * 8 + 2);
}

TEST_F(Events64, SoftwareInterrupt_BadGates_GpAsTheManualSays) {
  gate(0x80, {.type = kTypeTaskGate});
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0x80 * 8 + 2);
  gate(0x80, {.selector = kCode32});  // not a 64-bit code segment
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, kCode32);
  gate(0x80, {.selector = kData0});
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, kData0);
  gate(0x80, {.selector = 0x1000});  // beyond the GDT
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0x1000);
  gate(0x80, {.selector = 3});  // null
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0);
  gate(0x80, {.offset = 0x0000900000000000});  // handler not canonical
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(cpu().rip, 0x123456U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600008U);
}

TEST_F(Events64, HandlerSegmentNotPresent_NpNamesTheSegment) {
  gate(0x80);
  set_gdt_bits(kCode64, 0, uint64_t{1} << 47);
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kNP, kCode64);
}

TEST_F(Events64, NonCanonicalStack_IsSsFault) {
  gate(0x80);
  cpu().gpr[kRsp] = 0x0000800000000020;
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kSS, 0);
}

TEST_F(Events64, TssTooShortForStack_TsNamesTheTss) {
  gate(0x80, {.dpl = 3});
  enter_user();
  cpu().tr.limit = 10;
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kTS, kTssSel);
}

TEST_F(Events64, ExternalInterruptThroughMissingGate_NpHasExtBit) {
  gate(0x40, {.present = false});
  gate(kNP);
  deliver_interrupt(cpu(), 0x40);
  expect_in_handler(kNP);
  EXPECT_EQ(stack64(0), 0x40U * 8 + 3);
}

TEST_F(Events64, ContributoryDuringContributory_DoubleFault) {
  gate(kGP, {.present = false});
  gate(kNP);
  gate(kDF);
  raise_and_deliver(kGP, 0x18);
  expect_in_handler(kDF);
  EXPECT_EQ(stack64(0), 0U);
  EXPECT_EQ(stack64(1), 0x123456U);
}

TEST_F(Events64, BenignThenContributory_HandledInTurn) {
  gate(kUD, {.present = false});
  gate(kNP);
  raise(cpu(), kUD);
  deliver_fault(cpu());
  expect_in_handler(kNP);
  EXPECT_EQ(stack64(0), 6U * 8 + 3);
}

TEST_F(Events64, ContributoryThenPageFault_HandledInTurn) {
  gate(kGP);
  gate(kPF, {.ist = 1});
  cpu().gpr[kRsp] = 0xffffffff80000000;  // not mapped: the push faults
  raise_and_deliver(kGP, 0);
  expect_in_handler(kPF);
  EXPECT_EQ(cpu().cr2, 0xffffffff7ffffff8U);
  EXPECT_EQ(stack64(0), kPfWrite);
}

TEST_F(Events64, PageFaultDuringPageFault_DoubleFaultWithSecondCr2) {
  gate(kPF);
  gate(kDF, {.ist = 1});
  cpu().gpr[kRsp] = 0xffffffff80000000;
  raise_page_fault(cpu(), 0x1234, 0);
  deliver_fault(cpu());
  expect_in_handler(kDF);
  EXPECT_EQ(cpu().cr2, 0xffffffff7ffffff8U);
}

TEST_F(Events64, FaultDuringDoubleFault_ShutsDown) {
  gate(kGP, {.present = false});
  gate(kDF, {.present = false});
  raise_and_deliver(kGP, 0);
  EXPECT_TRUE(cpu().shut_down);
  EXPECT_FALSE(cpu().fault.pending);
}

TEST_F(Events64, EmptyIdt_AnyExceptionShutsDown) {
  cpu().idtr.limit = 0;
  raise(cpu(), kUD);
  deliver_fault(cpu());
  EXPECT_TRUE(cpu().shut_down);
}

TEST_F(Events64, Nmi_BlocksFurtherOnesAndNeedsNoIf) {
  gate(kNMI);
  cpu().rflags_system = 2;
  deliver_nmi(cpu());
  expect_in_handler(kNMI);
  EXPECT_TRUE(cpu().nmi_blocked);
}

TEST_F(Events64, ConformingHandler_KeepsTheLevel) {
  set_gdt(kFree, 0x00af9f000000ffff);  // conforming 64-bit code, DPL 0
  gate(0x80, {.dpl = 3, .selector = kFree});
  enter_user();
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Branch);
  EXPECT_EQ(cpu().cpl, 3);
  EXPECT_EQ(cpu().seg[kCs].selector, kFree | 3);
  EXPECT_EQ(cpu().gpr[kRsp], kUserStack - 40);
}

class Events32 : public SystemTest {
 protected:
  void SetUp() override {
    start(TestMode::Protected32);
    cpu().rip = 0x123456;
    cpu().gpr[kRsp] = 0x600000;
    cpu().rflags_system = 2 | kIf;
  }
};

TEST_F(Events32, SameLevel_PushesThreeWords) {
  gate(0x40);
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().rip, handler_of(0x40));
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U - 12);
  EXPECT_EQ(stack32(0), 0x123456U);
  EXPECT_EQ(stack32(1), kCode32);
  EXPECT_EQ(stack32(2), 0x202U);
}

TEST_F(Events32, Gate16_PushesWordsAndCutsOffset) {
  gate(0x40, {.type = kTypeIntGate16, .offset = 0x12348888});
  deliver_interrupt(cpu(), 0x40);
  EXPECT_EQ(cpu().rip, 0x8888U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x600000U - 6);
  EXPECT_EQ(at<uint16_t>(cpu().gpr[kRsp]), 0x3456U);
}

TEST_F(Events32, FromUser_StackFromTss) {
  gate(0x80, {.dpl = 3});
  enter_user();
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 0x99), Step::Branch);
  EXPECT_EQ(cpu().seg[kSs].selector, kData0);
  EXPECT_EQ(cpu().gpr[kRsp], kRsp0 - 20);
  EXPECT_EQ(stack32(3), kUserStack);
  EXPECT_EQ(stack32(4), kUserData);
}

TEST_F(Events32, FromUser_BadStackInTss_TsNamesIt) {
  gate(0x80, {.dpl = 3});
  enter_user();
  store<uint16_t>(kTss + 8, 0);
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kTS, 0);
  store<uint16_t>(kTss + 8, kUserData);
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kTS, kUserData & 0xfffc);
  store<uint16_t>(kTss + 8, kData0);
  set_gdt_bits(kData0, 0, uint64_t{1} << 47);
  EXPECT_EQ(software_interrupt(cpu(), 0x80, 1), Step::Fault);
  expect_fault(kSS, kData0);
}

TEST_F(Events32, FromVm86_SegmentsSavedAndNulled) {
  gate(0x20);
  cpu().rflags_system |= kVm | kIopl;
  cpu().cpl = 3;
  for (unsigned i = 0; i < 6; ++i)
    cpu().seg[i] = {0x1000 * (i + 1), 0xffff, 0xf3, static_cast<uint16_t>(0x100 * (i + 1))};
  update_mode(cpu());
  cpu().gpr[kRsp] = 0x400;
  deliver_interrupt(cpu(), 0x20);
  EXPECT_EQ(cpu().cpl, 0);
  EXPECT_FALSE(is_vm86(cpu()));
  EXPECT_EQ(cpu().gpr[kRsp], kRsp0 - 36);
  EXPECT_EQ(stack32(1), 0x100U * (kCs + 1));
  EXPECT_EQ(stack32(2) & kVm, kVm);
  EXPECT_EQ(stack32(3), 0x400U);
  EXPECT_EQ(stack32(4), 0x100U * (kSs + 1));
  EXPECT_EQ(stack32(5), 0x100U * (kEs + 1));
  EXPECT_EQ(stack32(6), 0x100U * (kDs + 1));
  EXPECT_EQ(stack32(7), 0x100U * (kFs + 1));
  EXPECT_EQ(stack32(8), 0x100U * (kGs + 1));
  for (unsigned i : {kEs, kDs, kFs, kGs}) {
    EXPECT_EQ(cpu().seg[i].selector, 0);
    EXPECT_FALSE(is_usable(cpu().seg[i]));
  }
}

class EventsReal : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Real16); }
};

TEST_F(EventsReal, Interrupt_GoesThroughTheVectorTable) {
  cpu().idtr = {0, 0x3ff};
  store<uint32_t>(0x21 * 4, 0x20001234);
  cpu().rip = 0x55;
  cpu().gpr[kRsp] = 0x8000;
  cpu().rflags_system = 2 | kIf | kTf;
  const uint16_t cs = cpu().seg[kCs].selector;
  EXPECT_EQ(software_interrupt(cpu(), 0x21, 0x57), Step::Branch);
  EXPECT_EQ(cpu().seg[kCs].selector, 0x2000);
  EXPECT_EQ(cpu().seg[kCs].base, 0x20000U);
  EXPECT_EQ(cpu().rip, 0x1234U);
  EXPECT_EQ(cpu().gpr[kRsp], 0x8000U - 6);
  EXPECT_EQ(at<uint16_t>(0x8000 - 6), 0x57);
  EXPECT_EQ(at<uint16_t>(0x8000 - 4), cs);
  EXPECT_EQ(at<uint16_t>(0x8000 - 2), 0x302);
  EXPECT_EQ(cpu().rflags_system & (kIf | kTf), 0U);
}

TEST_F(EventsReal, ErrorCodeIsNotPushed) {
  cpu().idtr = {0, 0x3ff};
  store<uint32_t>(13 * 4, 0x20000100);
  cpu().gpr[kRsp] = 0x8000;
  raise(cpu(), kGP, 0);
  deliver_fault(cpu());
  EXPECT_EQ(cpu().gpr[kRsp], 0x8000U - 6);
}

TEST_F(EventsReal, VectorBeyondIdtLimit_LeadsToShutdown) {
  cpu().idtr = {0, 0};
  raise(cpu(), kUD);
  deliver_fault(cpu());
  EXPECT_TRUE(cpu().shut_down);
}

}  // namespace
}  // namespace trapeze::soft
