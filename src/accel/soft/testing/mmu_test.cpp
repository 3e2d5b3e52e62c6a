// Translation, rights and the TLB, with page tables made by hand (SDM 3A ch. 4). Lies beside the
// test machine because that stands above mmu/.
#include <gtest/gtest.h>

#include "accel/soft/mmu/access.h"
#include "accel/soft/mmu/mmu.h"
#include "accel/soft/system/mode.h"
#include "accel/soft/testing/machine.h"
#include "base/units.h"

namespace trapeze::soft {
namespace {

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kDirty = 0x40, kAccessed = 0x20;
constexpr uint64_t kNx = uint64_t{1} << 63;
constexpr uint64_t kTablePage = 0x4000;  // a page table for linear 1 GiB .. 1 GiB + 2 MiB
constexpr uint64_t kWindow = 1 * GiB;    // where the tests map their pages
constexpr uint64_t kFrame = 0x300000;

class MmuTest : public testing::Test {
 protected:
  MmuTest() {
    // PDPT[1] -> page directory at 0x5000 -> page table at 0x4000.
    machine_.memory().store<uint64_t>(Gpa{0x2000 + 8}, 0x5000 | 7);
    machine_.memory().store<uint64_t>(Gpa{0x5000}, kTablePage | 7);
    flush_tlb(machine_.cpu());
  }

  void map(uint64_t flags, uint64_t index = 0) {
    machine_.memory().store<uint64_t>(Gpa{kTablePage + index * 8},
                                      (kFrame + index * kPageSize) | flags);
  }
  uint64_t pte(uint64_t index = 0) {
    return machine_.memory().load<uint64_t>(Gpa{kTablePage + index * 8}).value();
  }
  void set_cpl(uint8_t cpl) {
    machine_.cpu().cpl = cpl;
    select_tlb(machine_.cpu());
  }
  void set_cr4(uint64_t bits) {
    machine_.cpu().cr4 |= bits;
    flush_tlb(machine_.cpu());
  }
  // The page-fault error code of an access, or 0x1000 when it succeeds.
  uint32_t read_result(uint64_t linear) {
    uint64_t value = 0;
    return result(read_linear<uint64_t>(machine_.cpu(), linear, value));
  }
  uint32_t write_result(uint64_t linear) {
    return result(write_linear<uint64_t>(machine_.cpu(), linear, 1));
  }
  uint32_t fetch_result(uint64_t linear) {
    uint64_t gpa = 0;
    return result(translate_fetch(machine_.cpu(), linear, gpa));
  }
  uint32_t result(bool ok) {
    Cpu& cpu = machine_.cpu();
    if (ok) return 0x1000;
    EXPECT_TRUE(cpu.fault.pending);
    EXPECT_EQ(cpu.fault.vector, kPF);
    cpu.fault.pending = false;
    return cpu.fault.error_code;
  }

  static constexpr uint32_t kOk = 0x1000;
  TestMachine machine_;
};

TEST_F(MmuTest, absent_page_faults_with_the_access_in_the_code) {
  EXPECT_EQ(read_result(kWindow), 0U);
  EXPECT_EQ(write_result(kWindow), kPfWrite);
  EXPECT_EQ(machine_.cpu().fault.cr2, kWindow);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kPfUser);
  EXPECT_EQ(fetch_result(kWindow), kPfUser | kPfFetch);
}

TEST_F(MmuTest, supervisor_page_is_closed_to_user_code) {
  map(kPresent | kWritable);
  EXPECT_EQ(write_result(kWindow), kOk);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kPfPresent | kPfUser);
  EXPECT_EQ(write_result(kWindow), kPfPresent | kPfUser | kPfWrite);
}

TEST_F(MmuTest, read_only_page_binds_the_supervisor_only_under_wp) {
  map(kPresent);
  EXPECT_EQ(write_result(kWindow), kPfPresent | kPfWrite);
  machine_.cpu().cr0 &= ~(uint64_t{1} << 16);
  flush_tlb(machine_.cpu());
  EXPECT_EQ(write_result(kWindow), kOk);
}

TEST_F(MmuTest, accessed_and_dirty_bits_follow_the_access) {
  map(kPresent | kWritable);
  EXPECT_EQ(read_result(kWindow), kOk);
  EXPECT_EQ(pte() & (kAccessed | kDirty), kAccessed);
  EXPECT_EQ(write_result(kWindow), kOk);  // the read must not have left a right to write
  EXPECT_EQ(pte() & (kAccessed | kDirty), kAccessed | kDirty);
}

TEST_F(MmuTest, faulting_access_leaves_the_leaf_untouched) {
  map(kPresent);
  write_result(kWindow);
  EXPECT_EQ(pte() & (kAccessed | kDirty), 0U);
}

TEST_F(MmuTest, reserved_bits_fault_with_their_own_code) {
  map(kPresent | kWritable | uint64_t{1} << 51);
  EXPECT_EQ(read_result(kWindow), kPfPresent | kPfReserved);
  machine_.cpu().efer &= ~uint64_t{1 << 11};  // without NXE bit 63 is reserved as well
  map(kPresent | kWritable | kNx);
  EXPECT_EQ(read_result(kWindow), kPfPresent | kPfReserved);
}

TEST_F(MmuTest, no_execute_page_faults_on_fetch_only) {
  map(kPresent | kNx);
  EXPECT_EQ(read_result(kWindow), kOk);
  EXPECT_EQ(fetch_result(kWindow), kPfPresent | kPfFetch);
}

TEST_F(MmuTest, smep_and_smap_close_user_pages_to_the_supervisor) {
  map(kPresent | kWritable | kUser);
  EXPECT_EQ(fetch_result(kWindow), kOk);
  EXPECT_EQ(read_result(kWindow), kOk);
  set_cr4(1U << 20 | 1U << 21);
  EXPECT_EQ(fetch_result(kWindow), kPfPresent | kPfFetch);
  EXPECT_EQ(read_result(kWindow), kPfPresent);
  machine_.cpu().rflags_system |= kAc;
  select_tlb(machine_.cpu());
  EXPECT_EQ(read_result(kWindow), kOk);
  machine_.cpu().rflags_system &= ~kAc;
  select_tlb(machine_.cpu());
  EXPECT_EQ(read_result(kWindow), kPfPresent) << "the translation made under AC must not serve";
}

TEST_F(MmuTest, stale_translation_lives_until_it_is_flushed) {
  map(kPresent | kWritable);
  EXPECT_EQ(read_result(kWindow), kOk);
  map(0);
  EXPECT_EQ(read_result(kWindow), kOk);
  flush_page(machine_.cpu(), kWindow + 123);
  EXPECT_EQ(read_result(kWindow), 0U);
}

TEST_F(MmuTest, part_of_a_large_page_is_flushed_with_it) {
  machine_.memory().store<uint64_t>(Gpa{0x5000 + 8}, 0x400000 | 0x83);
  EXPECT_EQ(read_result(kWindow + 2 * MiB + 5 * kPageSize), kOk);
  machine_.memory().store<uint64_t>(Gpa{0x5000 + 8}, 0);
  flush_page(machine_.cpu(), kWindow + 2 * MiB);
  EXPECT_EQ(read_result(kWindow + 2 * MiB + 5 * kPageSize), 0U);
}

TEST_F(MmuTest, pcid_keeps_translations_apart_and_alive) {
  set_cr4(1U << 17);
  map(kPresent | kWritable | kUser);
  Cpu& cpu = machine_.cpu();
  load_cr3(cpu, 0x1001, false);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kOk);
  map(0);
  set_cpl(0);
  load_cr3(cpu, 0x1002, false);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kPfUser) << "another PCID must not see it";
  set_cpl(0);
  load_cr3(cpu, 0x1001, true);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kOk) << "bit 63 keeps what the PCID had";
  set_cpl(0);
  invpcid(cpu, 1, 1, 0);
  set_cpl(3);
  EXPECT_EQ(read_result(kWindow), kPfUser);
}

TEST_F(MmuTest, global_page_survives_a_cr3_load) {
  map(kPresent | kWritable | 0x100);
  EXPECT_EQ(read_result(kWindow), kOk);
  map(0);
  load_cr3(machine_.cpu(), machine_.cpu().cr3, false);
  EXPECT_EQ(read_result(kWindow), kOk);
  flush_tlb(machine_.cpu());
  EXPECT_EQ(read_result(kWindow), 0U);
}

TEST_F(MmuTest, access_across_pages_faults_before_it_writes) {
  map(kPresent | kWritable);
  machine_.memory().store<uint32_t>(Gpa{kFrame + kPageSize - 4}, 0x55555555);
  EXPECT_EQ(write_result(kWindow + kPageSize - 4), kPfWrite);
  EXPECT_EQ(machine_.cpu().fault.cr2, kWindow + kPageSize);
  EXPECT_EQ(machine_.memory().load<uint32_t>(Gpa{kFrame + kPageSize - 4}), 0x55555555U);
  map(kPresent | kWritable, 1);
  EXPECT_EQ(write_result(kWindow + kPageSize - 4), kOk);
  EXPECT_EQ(machine_.memory().load<uint64_t>(Gpa{kFrame + kPageSize - 4}), 1U);
}

TEST_F(MmuTest, pages_in_a_row_never_share_an_entry) {
  for (uint64_t page = 1; page < uint64_t{1} << 21; ++page) {
    ASSERT_NE(Tlb::index((page - 1) * kPageSize), Tlb::index(page * kPageSize)) << page;
  }
}

// The index of 2 GiB was that of the page before: the access hit, and reached in front of the
// frame.
TEST_F(MmuTest, access_across_2_gib_looks_at_both_pages) {
  machine_.memory().store<uint64_t>(Gpa{0x2000 + 16}, 0x5000 | 7);
  map(kPresent | kWritable | kUser);
  flush_tlb(machine_.cpu());
  EXPECT_EQ(write_result(2 * GiB), kOk);
  EXPECT_EQ(read_result(2 * GiB - 4), 0U);  // the page is absent
  EXPECT_EQ(machine_.cpu().fault.cr2, 2 * GiB - 4);
  EXPECT_EQ(write_result(2 * GiB - 4), 2U);
}

TEST_F(MmuTest, non_canonical_address_is_a_protection_fault_by_segment) {
  uint64_t value = 0;
  Cpu& cpu = machine_.cpu();
  EXPECT_FALSE(read_linear<uint64_t>(cpu, 0x8000'0000'0000, value, kDs));
  EXPECT_EQ(cpu.fault.vector, kGP);
  EXPECT_FALSE(read_linear<uint64_t>(cpu, 0x7fff'ffff'fffc, value, kSs));
  EXPECT_EQ(cpu.fault.vector, kSS);
}

TEST_F(MmuTest, locked_modification_across_pages_is_done) {
  map(kPresent | kWritable);
  map(kPresent | kWritable, 1);
  const bool ok = modify_linear<uint32_t>(machine_.cpu(), kWindow + kPageSize - 2, true, kDs,
                                          [](uint32_t old) { return old + 0x10001; });
  EXPECT_TRUE(ok);
  EXPECT_EQ(machine_.memory().load<uint32_t>(Gpa{kFrame + kPageSize - 2}), 0x10001U);
}

}  // namespace
}  // namespace trapeze::soft
