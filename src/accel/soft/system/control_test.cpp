#include "accel/soft/system/control.h"

#include "accel/soft/system/debug.h"
#include "accel/soft/system/msr.h"
#include "accel/soft/system/system_fixture.h"
#include "irq/chip/apic_message.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kEferLme = 1U << 8, kEferLma = 1U << 10;

class Control64 : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Long64); }
  void expect_gp(bool done) {
    EXPECT_FALSE(done);
    expect_fault(kGP, 0);
  }
};

TEST_F(Control64, Cr0_ForbiddenCombinations) {
  const uint64_t cr0 = cpu().cr0;
  expect_gp(write_cr0(cpu(), cr0 & ~kCr0Pe));
  expect_gp(write_cr0(cpu(), (cr0 | kCr0Nw) & ~kCr0Cd));
  expect_gp(write_cr0(cpu(), cr0 | (uint64_t{1} << 32)));
  expect_gp(write_cr0(cpu(), cr0 & ~kCr0Pg));  // in 64-bit mode
  EXPECT_EQ(cpu().cr0, cr0);
}

TEST_F(Control64, Cr0_ReservedBitsIgnoredAndEtFixed) {
  EXPECT_TRUE(write_cr0(cpu(), (cpu().cr0 & ~kCr0Et) | (1U << 10)));
  EXPECT_EQ(cpu().cr0 & (kCr0Et | (1U << 10)), kCr0Et);
}

TEST_F(Control64, Cr4_OnlyWhatTheModelOffers) {
  const uint64_t cr4 = cpu().cr4;
  for (unsigned bit : {0U, 1U, 12U, 13U, 14U, 15U, 18U, 19U, 22U, 23U, 40U})
    expect_gp(write_cr4(cpu(), cr4 | (uint64_t{1} << bit)));
  for (uint64_t bit : {kCr4Tsd, kCr4De, kCr4Mce, kCr4Umip, kCr4Fsgsbase, kCr4Smep, kCr4Smap})
    EXPECT_TRUE(write_cr4(cpu(), cr4 | bit)) << std::hex << bit;
  EXPECT_TRUE(write_cr4(cpu(), cr4));
  expect_gp(write_cr4(cpu(), cr4 & ~kCr4Pae));  // in IA-32e mode
  EXPECT_EQ(cpu().cr4, cr4);
}

TEST_F(Control64, Pcide_NeedsPcidZeroAndHoldsPaging) {
  const uint64_t cr3 = cpu().cr3;
  EXPECT_TRUE(write_cr3(cpu(), cr3 | 1));
  expect_gp(write_cr4(cpu(), cpu().cr4 | kCr4Pcide));
  EXPECT_TRUE(write_cr3(cpu(), cr3));
  EXPECT_TRUE(write_cr4(cpu(), cpu().cr4 | kCr4Pcide));
  cpu().seg[kCs].access = 0xc09b;  // compatibility mode, where PG could be cleared otherwise
  update_mode(cpu());
  expect_gp(write_cr0(cpu(), cpu().cr0 & ~kCr0Pg));
}

TEST_F(Control64, Cr3_Bit63OnlyWithPcideAndNeverStored) {
  const uint64_t cr3 = cpu().cr3;
  expect_gp(write_cr3(cpu(), cr3 | (uint64_t{1} << 63)));
  ASSERT_TRUE(write_cr4(cpu(), cpu().cr4 | kCr4Pcide));
  EXPECT_TRUE(write_cr3(cpu(), cr3 | 5 | (uint64_t{1} << 63)));
  EXPECT_EQ(cpu().cr3, cr3 | 5);
  expect_gp(write_cr3(cpu(), cr3 | (uint64_t{1} << 46)));  // beyond the physical address
}

TEST_F(Control64, Cr8_FourBits) {
  cpu().gpr[kRax] = 16;
  EXPECT_EQ(run({0x44, 0x0f, 0x22, 0xc0}), RunResult::Fault);  // mov cr8, rax
  expect_fault(kGP, 0);
  cpu().gpr[kRax] = 9;
  EXPECT_EQ(run({0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3}), RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRbx], 9U);
}

TEST_F(Control64, PrivilegedInstructions_Gp0FromUser) {
  const std::initializer_list<uint8_t> kCases[] = {
      {0x0f, 0x20, 0xc0},              // mov rax, cr0
      {0x0f, 0x22, 0xd8},              // mov cr3, rax
      {0x0f, 0x21, 0xf8},              // mov rax, dr7
      {0x0f, 0x01, 0x10},              // lgdt [rax]
      {0x0f, 0x01, 0x38},              // invlpg [rax]
      {0x0f, 0x06},                    // clts
      {0x0f, 0x09},                    // wbinvd
      {0x0f, 0x30},                    // wrmsr
      {0x0f, 0x32},                    // rdmsr
      {0x0f, 0x00, 0xd8},              // ltr ax
      {0x0f, 0x01, 0xf0},              // lmsw ax
      {0x0f, 0x01, 0xf8},              // swapgs
      {0x48, 0x0f, 0x07},              // sysretq
      {0xf4},                          // hlt
      {0xfa},                          // cli
      {0xfb},                          // sti
      {0xec},                          // in al, dx
      {0x0f, 0x33},                    // rdpmc
      {0x66, 0x0f, 0x38, 0x82, 0x00},  // invpcid rax, [rax]
  };
  cpu().gpr[kRax] = TestMachine::kData;
  for (const auto& bytes : kCases) {
    enter_user();
    machine_->code(bytes);
    EXPECT_EQ(machine_->run(), RunResult::Fault) << std::hex << int{*bytes.begin()};
    expect_fault(kGP, 0);
  }
}

TEST_F(Control64, NotOffered_IsUndefined) {
  const std::initializer_list<uint8_t> kCases[] = {
      {0x0f, 0x01, 0xc8},  // monitor
      {0x0f, 0x01, 0xc9},  // mwait
      {0x0f, 0x01, 0xd0},  // xgetbv
      {0x0f, 0x01, 0xd1},  // xsetbv
      {0x0f, 0xaa},        // rsm
      {0x0f, 0x37},        // getsec
      {0x0f, 0x01, 0xc4},  // vmxoff
      {0x0f, 0x01, 0xd8},  // vmrun
      {0x0f, 0x01, 0xcb},  // stac needs CPL 0
  };
  for (const auto& bytes : kCases) {
    enter_user();
    machine_->code(bytes);
    EXPECT_EQ(machine_->run(), RunResult::Fault);
    EXPECT_EQ(cpu().fault.vector, kUD) << std::hex << int{*(bytes.begin() + 1)};
    cpu().fault = {};
  }
}

TEST_F(Control64, Umip_HidesTablesFromUsersOnly) {
  ASSERT_TRUE(write_cr4(cpu(), cpu().cr4 | kCr4Umip));
  EXPECT_EQ(run({0x0f, 0x00, 0xc8}), RunResult::Halted);  // str eax
  EXPECT_EQ(cpu().gpr[kRax], kTssSel);
  cpu().gpr[kRbx] = TestMachine::kData;
  const std::initializer_list<uint8_t> kCases[] = {
      {0x0f, 0x00, 0xc8},
      {0x0f, 0x00, 0xc0},
      {0x0f, 0x01, 0x03},
      {0x0f, 0x01, 0x0b},
      {0x0f, 0x01, 0xe0}};  // str, sldt, sgdt, sidt, smsw
  for (const auto& bytes : kCases) {
    enter_user();
    machine_->code(bytes);
    EXPECT_EQ(machine_->run(), RunResult::Fault);
    expect_fault(kGP, 0);
  }
}

TEST_F(Control64, Lgdt_NonCanonicalBase_Gp0) {
  const DescriptorTable old = cpu().gdtr;
  store<uint16_t>(TestMachine::kData, 0x7f);
  store<uint64_t>(TestMachine::kData + 2, 0x0000800000000000);
  cpu().gpr[kRax] = TestMachine::kData;
  EXPECT_EQ(run({0x0f, 0x01, 0x10}), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(run({0x0f, 0x01, 0x18}), RunResult::Fault);  // lidt
  expect_fault(kGP, 0);
  EXPECT_EQ(cpu().gdtr, old);
  store<uint64_t>(TestMachine::kData + 2, 0xffff800000000000);
  EXPECT_EQ(run({0x0f, 0x01, 0x10}), RunResult::Halted);
  EXPECT_EQ(cpu().gdtr.base, 0xffff800000000000U);
}

TEST_F(Control64, Sgdt_StoresLimitAndBase) {
  cpu().gpr[kRax] = TestMachine::kData;
  EXPECT_EQ(run({0x0f, 0x01, 0x00}), RunResult::Halted);
  EXPECT_EQ(at<uint16_t>(TestMachine::kData), 0xfff);
  EXPECT_EQ(at<uint64_t>(TestMachine::kData + 2), kGdt);
}

TEST_F(Control64, Invpcid_ReservedBitsAndTypes) {
  cpu().gpr[kRbx] = TestMachine::kData;
  auto invpcid = [&](uint64_t type, uint64_t pcid, uint64_t linear) {
    store<uint64_t>(TestMachine::kData, pcid);
    store<uint64_t>(TestMachine::kData + 8, linear);
    cpu().gpr[kRax] = type;
    return run({0x66, 0x0f, 0x38, 0x82, 0x03});
  };
  EXPECT_EQ(invpcid(0, 0, 0x1000), RunResult::Halted);
  EXPECT_EQ(invpcid(2, 0, 0), RunResult::Halted);
  EXPECT_EQ(invpcid(4, 0, 0), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(invpcid(0, 0x1000, 0), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(invpcid(0, 0, 0x0000800000000000), RunResult::Fault);
  expect_fault(kGP, 0);
  EXPECT_EQ(invpcid(1, 1, 0), RunResult::Fault);  // PCID without CR4.PCIDE
  expect_fault(kGP, 0);
}

TEST_F(Control64, DebugRegisters_AliasesAndReservedBits) {
  cpu().gpr[kRax] = 0xffffffff;
  EXPECT_EQ(run({0x0f, 0x23, 0xe0}), RunResult::Halted);  // mov dr4, rax
  EXPECT_EQ(cpu().dr6, 0xffffefffU);                      // bit 12 reads 0
  cpu().gpr[kRax] = uint64_t{1} << 32;
  EXPECT_EQ(run({0x0f, 0x23, 0xf0}), RunResult::Fault);  // mov dr6
  expect_fault(kGP, 0);
  EXPECT_EQ(run({0x0f, 0x23, 0xf8}), RunResult::Fault);  // mov dr7
  expect_fault(kGP, 0);
  ASSERT_TRUE(write_cr4(cpu(), cpu().cr4 | kCr4De));
  cpu().gpr[kRax] = 0;
  EXPECT_EQ(run({0x0f, 0x23, 0xe0}), RunResult::Fault);
  EXPECT_EQ(cpu().fault.vector, kUD);
}

TEST_F(Control64, GeneralDetect_FaultsWithBd) {
  cpu().dr7 = kDr7Fixed | kDr7Gd;
  EXPECT_EQ(run({0x0f, 0x21, 0xc0}), RunResult::Fault);  // mov rax, dr0
  EXPECT_EQ(cpu().fault.vector, kDB);
  EXPECT_EQ(cpu().fault.dr6, kDr6Bd);
}

TEST_F(Control64, Popf_FromUserKeepsIfAndIopl) {
  enter_user();
  cpu().rflags_system = 2 | kIf;
  // push 0x3000; popfq; (hlt faults)
  EXPECT_EQ(run({0x68, 0x00, 0x30, 0, 0, 0x9d}), RunResult::Fault);
  EXPECT_EQ(cpu().rflags_system & (kIf | kIopl), kIf);
}

TEST_F(Control64, Sti_ShadowOnlyWhenIfWasClear) {
  cpu().rflags_system = 2;
  machine_->code({0xfb, 0x90});
  EXPECT_EQ(machine_->run(1), RunResult::Limit);
  EXPECT_EQ(cpu().shadow, 1);
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(cpu().shadow, 0);
  machine_->code({0xfb, 0x90});
  EXPECT_EQ(machine_->run(), RunResult::Halted);
  EXPECT_EQ(cpu().shadow, 0);
}

TEST_F(Control64, Smsw_GivesCr0) {
  EXPECT_EQ(run({0x48, 0x0f, 0x01, 0xe0}), RunResult::Halted);  // smsw rax
  EXPECT_EQ(cpu().gpr[kRax], cpu().cr0);
}

TEST_F(Control64, Hypercall_AnswersEnosys) {
  EXPECT_EQ(run({0x0f, 0x01, 0xc1}), RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRax], static_cast<uint64_t>(-1000));
}

TEST_F(Control64, SendIpiHypercall_ReachesTheApicIdsOfItsBitmap) {
  struct Sink final : ApicMessageSink {
    bool send(const ApicMessage& message) override {
      sent.push_back(message);
      return message.destination != 7;
    }
    std::vector<ApicMessage> sent;
  } sink;
  cpu().env->apic_bus = &sink;
  const auto call = [this](uint64_t low, uint64_t high, uint64_t min, uint64_t icr) {
    cpu().gpr[kRax] = 10;
    cpu().gpr[kRbx] = low;
    cpu().gpr[kRcx] = high;
    cpu().gpr[kRdx] = min;
    cpu().gpr[kRsi] = icr;
    EXPECT_EQ(run({0x0f, 0x01, 0xc1}), RunResult::Halted);
    return static_cast<int64_t>(cpu().gpr[kRax]);
  };
  EXPECT_EQ(call(0b101, 1, 5, 0x41), 2);  // 5, 7 (nobody there) and 69
  ASSERT_EQ(sink.sent.size(), 3U);
  EXPECT_EQ(sink.sent[0].destination, 5U);
  EXPECT_EQ(sink.sent[2].destination, 69U);
  EXPECT_EQ(sink.sent[0].vector, 0x41);
  EXPECT_EQ(call(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0} - 3, 0x41), 0) << "must not wrap";
  EXPECT_EQ(call(1, 0, 0, 0x4'0041), -22);  // a shorthand
  EXPECT_EQ(call(1, 0, 0, 0x541), -22);     // INIT
  cpu().env->apic_bus = nullptr;
}

TEST_F(Control64, Cpuid_ShowsNoApicWithoutOne) {
  cpu().gpr[kRax] = 1;
  EXPECT_EQ(run({0x0f, 0xa2}), RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRdx] & (1U << 9), 0U);
  EXPECT_NE(cpu().gpr[kRcx] & (1U << 31), 0U);  // hypervisor
}

class Control32 : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Protected32); }
};

TEST_F(Control32, LongModeWithoutPae_Gp0) {
  ASSERT_TRUE(write_msr(cpu(), 0xc0000080, kEferLme));
  EXPECT_FALSE(write_cr0(cpu(), cpu().cr0 | kCr0Pg));
  expect_fault(kGP, 0);
  EXPECT_EQ(cpu().efer, kEferLme);
}

TEST_F(Control32, EferLme_CannotChangeUnderPaging) {
  ASSERT_TRUE(write_cr0(cpu(), cpu().cr0 | kCr0Pg));
  EXPECT_FALSE(write_msr(cpu(), 0xc0000080, kEferLme));
}

TEST_F(Control32, PaePointersWithReservedBits_Gp0) {
  store<uint64_t>(0x6000, 0x1e7);  // present, and bits that must be 0
  ASSERT_TRUE(write_cr4(cpu(), cpu().cr4 | kCr4Pae));
  ASSERT_TRUE(write_cr3(cpu(), 0x6000));
  EXPECT_FALSE(write_cr0(cpu(), cpu().cr0 | kCr0Pg));
  expect_fault(kGP, 0);
  EXPECT_EQ(cpu().cr0 & kCr0Pg, 0U);
}

TEST_F(Control32, Lmsw_SetsPeButNeverClearsIt) {
  cpu().gpr[kRax] = 0xe;
  EXPECT_EQ(run({0x0f, 0x01, 0xf0}), RunResult::Halted);
  EXPECT_EQ(cpu().cr0 & 0xf, 0xfU);
}

// From reset through protected mode to 64-bit mode and all the way back, by code.
TEST(ModeSwitch, RealToLongAndBack) {
  TestMachine machine(TestMode::Real16);
  Cpu& cpu = machine.cpu();
  GuestMemory& memory = machine.memory();
  // The machine's page tables map the first GiB; its GDT is at 0x500.
  memory.store<uint64_t>(Gpa(0x1000), 0x2007);
  memory.store<uint64_t>(Gpa(0x2000), 0x3007);
  for (uint64_t i = 0; i < 8; ++i) memory.store<uint64_t>(Gpa(0x3000 + i * 8), (i << 21) | 0x87);
  memory.store<uint64_t>(Gpa(0x520), 0x000f9b000000ffff);  // 16-bit code, limit 1 MiB
  memory.store<uint16_t>(Gpa(0x10f00), 0x3f);
  memory.store<uint32_t>(Gpa(0x10f02), 0x500);
  static constexpr uint8_t kProgram[] = {
#include "accel/soft/system/mode_switch.inc"
  };
  machine.code(std::span(kProgram));
  EXPECT_EQ(machine.run(), RunResult::Halted);
  EXPECT_EQ(cpu.fault.pending, false);
  EXPECT_EQ(memory.load<uint64_t>(Gpa(0x20000)), 0x1122334455667788U);  // written in 64-bit mode
  EXPECT_EQ(memory.load<uint32_t>(Gpa(0x20008)), 0x32323232U);          // in compatibility mode
  EXPECT_EQ(memory.load<uint16_t>(Gpa(0x2000c)), 0x1616);               // in real mode again
  EXPECT_FALSE(is_protected(cpu));
  EXPECT_EQ(cpu.efer & (kEferLma | kEferLme), 0U);
  EXPECT_EQ(cpu.code_size, CodeSize::Code16);
}

}  // namespace
}  // namespace trapeze::soft
