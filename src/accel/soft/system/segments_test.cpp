#include "accel/soft/system/segments.h"

#include "accel/soft/mmu/access.h"
#include "accel/soft/system/instructions.h"
#include "accel/soft/system/system_fixture.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kPresentBit = uint64_t{1} << 47;
constexpr uint64_t kAccessed = uint64_t{1} << 40;

class Segments32 : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Protected32); }
  bool load(unsigned seg, uint16_t selector) { return load_data_segment(cpu(), seg, selector); }
};

TEST_F(Segments32, DataSegment_LoadsHiddenPartAndSetsAccessed) {
  set_gdt(kFree, 0x1240920034560fff);  // base 0x12003456, limit 0xfff, 32-bit data, not accessed
  ASSERT_TRUE(load(kEs, kFree));
  EXPECT_EQ(cpu().seg[kEs].base, 0x12003456U);
  EXPECT_EQ(cpu().seg[kEs].limit, 0xfffU);
  EXPECT_EQ(cpu().seg[kEs].access, 0x4093U);
  EXPECT_NE(at<uint64_t>(kGdt + kFree) & kAccessed, 0U);
}

TEST_F(Segments32, NullDataSegment_LoadsAndFaultsOnUse) {
  ASSERT_TRUE(load(kEs, 3));
  uint64_t linear = 0;
  EXPECT_FALSE(segment_to_linear(cpu(), kEs, 0, 1, Access::Read, linear));
  expect_fault(kGP, 0);
}

TEST_F(Segments32, DataSegmentChecks) {
  EXPECT_FALSE(load(kDs, 0x1000));  // beyond the GDT
  expect_fault(kGP, 0x1000);
  EXPECT_FALSE(load(kDs, kTssSel));  // system descriptor
  expect_fault(kGP, kTssSel);
  set_gdt(kFree, 0x00cf99000000ffff);  // execute-only code
  EXPECT_FALSE(load(kDs, kFree));
  expect_fault(kGP, kFree);
  EXPECT_TRUE(load(kDs, kCode32));      // readable code
  EXPECT_FALSE(load(kDs, kData0 | 3));  // RPL above DPL
  expect_fault(kGP, kData0);
  set_gdt_bits(kData0, 0, kPresentBit);
  EXPECT_FALSE(load(kDs, kData0));
  expect_fault(kNP, kData0);
  EXPECT_FALSE(load(kDs, 0x0c));  // LDT, and there is none
  expect_fault(kGP, 0x0c);
  EXPECT_EQ(cpu().seg[kDs].selector, kCode32);
}

TEST_F(Segments32, ConformingCode_ReadableFromEveryLevel) {
  set_gdt(kFree, 0x00cf9f000000ffff);
  enter_user();
  EXPECT_TRUE(load(kDs, kFree | 3));
  EXPECT_FALSE(load(kDs, kData0));  // DPL 0
  expect_fault(kGP, kData0);
}

TEST_F(Segments32, StackSegmentChecks) {
  EXPECT_FALSE(load(kSs, 0));
  expect_fault(kGP, 0);
  EXPECT_FALSE(load(kSs, kData0 | 1));  // RPL is not CPL
  expect_fault(kGP, kData0);
  EXPECT_FALSE(load(kSs, kUserData & 0xfffc));  // DPL is not CPL
  expect_fault(kGP, kUserData & 0xfffc);
  EXPECT_FALSE(load(kSs, kCode32));
  expect_fault(kGP, kCode32);
  set_gdt(kFree, 0x00cf91000000ffff);  // read-only
  EXPECT_FALSE(load(kSs, kFree));
  expect_fault(kGP, kFree);
  set_gdt_bits(kData0, 0, kPresentBit);
  EXPECT_FALSE(load(kSs, kData0));
  expect_fault(kSS, kData0);
}

TEST_F(Segments32, Ldt_SelectorsAreFoundInIt) {
  set_gdt(kFree, 0x0000820000000007 | (kLdt & 0xffffff) << 16);
  store<uint64_t>(kLdt, 0x00cf93000000ffff);
  ASSERT_TRUE(load_ldtr(cpu(), kFree, kGP));
  EXPECT_TRUE(load(kEs, 4));
  EXPECT_FALSE(load(kEs, 0x0c));  // beyond its limit
  expect_fault(kGP, 0x0c);
}

TEST_F(Segments32, LldtChecks) {
  EXPECT_FALSE(load_ldtr(cpu(), kData0, kGP));
  expect_fault(kGP, kData0);
  EXPECT_FALSE(load_ldtr(cpu(), 4, kGP));
  expect_fault(kGP, 4);
  set_gdt(kFree, 0x0000020000000007);
  EXPECT_FALSE(load_ldtr(cpu(), kFree, kGP));
  expect_fault(kNP, kFree);
  EXPECT_TRUE(load_ldtr(cpu(), 0, kGP));
  EXPECT_FALSE(is_usable(cpu().ldtr));
}

TEST_F(Segments32, Ltr_MarksTheTssBusy) {
  set_gdt(kFree, 0x0000890000000067 | (kTss & 0xffffff) << 16);
  ASSERT_TRUE(load_tr(cpu(), kFree));
  EXPECT_EQ((at<uint64_t>(kGdt + kFree) >> 40) & 0xff, 0x8bU);
  EXPECT_EQ(cpu().tr.base, kTss);
  EXPECT_FALSE(load_tr(cpu(), kFree));  // busy now
  expect_fault(kGP, kFree);
  EXPECT_FALSE(load_tr(cpu(), 0));
  expect_fault(kGP, 0);
  set_gdt(kFree, 0x0000090000000067);
  EXPECT_FALSE(load_tr(cpu(), kFree));
  expect_fault(kNP, kFree);
}

TEST_F(Segments32, LimitAndTypeChecks) {
  uint64_t linear = 0;
  cpu().seg[kEs] = {0x1000, 0xfff, 0x4093, kFree};
  EXPECT_TRUE(segment_to_linear(cpu(), kEs, 0xffc, 4, Access::Write, linear));
  EXPECT_EQ(linear, 0x1ffcU);
  EXPECT_FALSE(segment_to_linear(cpu(), kEs, 0xffd, 4, Access::Write, linear));
  expect_fault(kGP, 0);
  cpu().seg[kSs].limit = 0xfff;
  EXPECT_FALSE(segment_to_linear(cpu(), kSs, 0x1000, 1, Access::Read, linear));
  expect_fault(kSS, 0);
  cpu().seg[kEs] = {0, 0xfff, 0x4097, kFree};  // expand-down
  EXPECT_FALSE(segment_to_linear(cpu(), kEs, 0xfff, 1, Access::Read, linear));
  expect_fault(kGP, 0);
  EXPECT_TRUE(segment_to_linear(cpu(), kEs, 0x1000, 4, Access::Read, linear));
  EXPECT_TRUE(segment_to_linear(cpu(), kEs, 0xfffffffc, 4, Access::Read, linear));
  cpu().seg[kEs].access = 0x0097;  // 16-bit: up to 0xffff
  EXPECT_FALSE(segment_to_linear(cpu(), kEs, 0xfffe, 4, Access::Read, linear));
  expect_fault(kGP, 0);
  cpu().seg[kEs] = {0, 0xffffffff, 0xc091, kFree};  // read-only
  EXPECT_TRUE(segment_to_linear(cpu(), kEs, 0, 4, Access::Read, linear));
  EXPECT_FALSE(segment_to_linear(cpu(), kEs, 0, 4, Access::Write, linear));
  expect_fault(kGP, 0);
  EXPECT_FALSE(segment_to_linear(cpu(), kCs, 0, 4, Access::ReadWrite, linear));
  expect_fault(kGP, 0);
  cpu().seg[kCs].access = 0xc099;  // execute-only
  EXPECT_FALSE(segment_to_linear(cpu(), kCs, 0, 4, Access::Read, linear));
  expect_fault(kGP, 0);
}

TEST_F(Segments32, BasePlusOffset_WrapsAt4GiB) {
  uint64_t linear = 0;
  cpu().seg[kEs] = {0xfffff000, 0xffffffff, 0xc093, kFree};
  EXPECT_TRUE(segment_to_linear(cpu(), kEs, 0x2000, 4, Access::Read, linear));
  EXPECT_EQ(linear, 0x1000U);
}

TEST_F(Segments32, MovSsAndPopSs_SetTheShadow) {
  cpu().gpr[kRax] = kData0;
  EXPECT_EQ(run({0x8e, 0xd0, 0x90}), RunResult::Halted);  // mov ss, ax; nop
  machine_->code({0x8e, 0xd0, 0x90});
  Insn insn;
  insn.dst = kSs;
  insn.src = kRax * 8;
  EXPECT_EQ(system::mov_sreg_from_reg(cpu(), insn), Step::EndBlock);
  EXPECT_EQ(cpu().shadow, 2);
}

TEST_F(Segments32, LarLslVerrVerw_AnswerInZf) {
  // mov ecx, kData0; lar eax, ecx; lsl ebx, ecx; verr cx; setz dl; verw cx; setz dh
  ASSERT_EQ(run({0xb9, 0x10, 0,    0,    0,    0x0f, 0x02, 0xc1, 0x0f, 0x03, 0xd9, 0x0f,
                 0x00, 0xe1, 0x0f, 0x94, 0xc2, 0x0f, 0x00, 0xe9, 0x0f, 0x94, 0xc6}),
            RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRax], 0xcf9300U);
  EXPECT_EQ(cpu().gpr[kRbx], 0xffffffffU);
  EXPECT_EQ(cpu().gpr[kRdx] & 0xffff, 0x0101U);
  // An execute-only segment and one that does not exist.
  set_gdt(kFree, 0x00cf99000000ffff);
  cpu().gpr[kRax] = 0x1111;
  ASSERT_EQ(run({0xb9, kFree, 0,    0, 0, 0x0f, 0x00, 0xe1, 0x0f, 0x94, 0xc2,
                 0xb9, 0,     0x20, 0, 0, 0x0f, 0x02, 0xc1, 0x0f, 0x94, 0xc6}),
            RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRdx] & 0xffff, 0U);
  EXPECT_EQ(cpu().gpr[kRax], 0x1111U);
}

TEST_F(Segments32, Arpl_RaisesTheRpl) {
  // mov eax, 0x10; mov ecx, 3; arpl ax, cx; setz dl
  ASSERT_EQ(run({0xb8, 0x10, 0, 0, 0, 0xb9, 3, 0, 0, 0, 0x63, 0xc8, 0x0f, 0x94, 0xc2}),
            RunResult::Halted);
  EXPECT_EQ(cpu().gpr[kRax], 0x13U);
  EXPECT_EQ(cpu().gpr[kRdx] & 0xff, 1U);
}

TEST_F(Segments32, Les_LoadsSegmentAndOffset) {
  store<uint32_t>(0x200000, 0x12345678);
  store<uint16_t>(0x200004, kData0);
  cpu().seg[kEs] = {};
  cpu().gpr[kRbx] = 0x200000;
  ASSERT_EQ(run({0xc4, 0x0b}), RunResult::Halted);  // les ecx, [ebx]
  EXPECT_EQ(cpu().gpr[kRcx], 0x12345678U);
  EXPECT_EQ(cpu().seg[kEs].selector, kData0);
}

TEST_F(Segments32, PushAndPopSegment) {
  ASSERT_EQ(run({0x1e, 0x07}), RunResult::Halted);  // push ds; pop es
  EXPECT_EQ(cpu().seg[kEs].selector, kData0);
  EXPECT_EQ(cpu().gpr[kRsp], TestMachine::kStackTop);
}

class Segments64 : public SystemTest {
 protected:
  void SetUp() override { start(TestMode::Long64); }
};

TEST_F(Segments64, NullSs_AllowedBelowCpl3WithMatchingRpl) {
  EXPECT_TRUE(load_data_segment(cpu(), kSs, 0));
  EXPECT_FALSE(load_data_segment(cpu(), kSs, 3));  // RPL is not CPL
  expect_fault(kGP, 0);
  enter_user();
  EXPECT_FALSE(load_data_segment(cpu(), kSs, 3));
  expect_fault(kGP, 0);
}

TEST_F(Segments64, NullSs_StackStillWorks) {
  ASSERT_TRUE(load_data_segment(cpu(), kSs, 0));
  cpu().gpr[kRax] = 0x1234;
  EXPECT_EQ(run({0x50, 0x5b}), RunResult::Halted);  // push rax; pop rbx
  EXPECT_EQ(cpu().gpr[kRbx], 0x1234U);
}

TEST_F(Segments64, OnlyFsAndGsHaveBases) {
  set_gdt(kFree, 0x1200930034560fff);
  for (unsigned seg : {kEs, kDs, kFs, kGs}) ASSERT_TRUE(load_data_segment(cpu(), seg, kFree));
  EXPECT_EQ(cpu().linear_base[kEs], 0U);
  EXPECT_EQ(cpu().linear_base[kDs], 0U);
  EXPECT_EQ(cpu().linear_base[kFs], 0x12003456U);
  EXPECT_EQ(cpu().linear_base[kGs], 0x12003456U);
}

TEST_F(Segments64, SystemDescriptors_Have16Bytes) {
  set_gdt(kFree, 0x12008900345600ff);
  set_gdt(kFree + 8, 0xffff8000);
  ASSERT_TRUE(load_tr(cpu(), kFree));
  EXPECT_EQ(cpu().tr.base, 0xffff800012003456U);
  set_gdt(kFree, 0x12008900345600ff);
  set_gdt(kFree + 8, 0x00009000);  // not canonical
  EXPECT_FALSE(load_tr(cpu(), kFree));
  expect_fault(kGP, kFree);
  cpu().gdtr.limit = kFree + 7;  // the second half is outside
  EXPECT_FALSE(load_tr(cpu(), kFree));
  expect_fault(kGP, kFree);
}

TEST_F(Segments64, NonCanonicalStackPush_SsNotGp) {
  cpu().gpr[kRsp] = 0x0000800000000008;
  EXPECT_EQ(run({0x50}), RunResult::Fault);
  expect_fault(kSS, 0);
  cpu().gpr[kRax] = 0x0000800000000000;
  EXPECT_EQ(run({0x48, 0x8b, 0x18}), RunResult::Fault);  // mov rbx, [rax]
  expect_fault(kGP, 0);
  cpu().gpr[kRbp] = 0x0000800000000000;
  EXPECT_EQ(run({0x48, 0x8b, 0x5d, 0x00}), RunResult::Fault);  // mov rbx, [rbp]
  expect_fault(kSS, 0);
}

TEST(SegmentsReal, LoadKeepsLimit_UnrealModeWorks) {
  TestMachine machine(TestMode::Real16);
  Cpu& cpu = machine.cpu();
  cpu.seg[kDs].limit = 0xffffffff;
  ASSERT_TRUE(load_data_segment(cpu, kDs, 0x1234));
  EXPECT_EQ(cpu.seg[kDs].base, 0x12340U);
  EXPECT_EQ(cpu.seg[kDs].limit, 0xffffffffU);
  uint64_t linear = 0;
  EXPECT_TRUE(segment_to_linear(cpu, kDs, 0x100000, 4, Access::Write, linear));
  EXPECT_TRUE(segment_to_linear(cpu, kCs, 0, 4, Access::Write, linear));
  EXPECT_FALSE(segment_to_linear(cpu, kEs, 0xffff, 2, Access::Read, linear));
  EXPECT_EQ(cpu.fault.vector, kGP);
}

}  // namespace
}  // namespace trapeze::soft
