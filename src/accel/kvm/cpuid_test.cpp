#include "accel/kvm/cpuid.h"

#include <gtest/gtest.h>

namespace trapeze::kvm {
namespace {

kvm_cpuid_entry2 entry(uint32_t leaf, uint32_t subleaf = 0) {
  kvm_cpuid_entry2 result{};
  result.function = leaf;
  result.index = subleaf;
  result.eax = result.ebx = result.ecx = result.edx = 0xffff'ffff;
  const bool has_subleaves = leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd;
  if (has_subleaves) result.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  return result;
}

std::vector<kvm_cpuid_entry2> host() {
  auto signature = entry(0x40000000);
  signature.eax = 0x40000001;
  signature.ebx = 0x4b4d564b;
  auto caches = entry(4, 3);
  caches.eax = 0x7c063 | 0xffu << 26;  // unified, level 3
  auto sizes = entry(0x80000008);
  sizes.eax = 0x3930;  // 48 physical, 57 linear
  return {entry(1),          caches,        entry(7, 0), entry(7, 1),       entry(0xa),
          entry(0xb, 0),     entry(0xd, 1), signature,   entry(0x40000001), entry(0x80000001),
          entry(0x8000000a), sizes};
}

CpuidPolicy policy_of(HostKind kind, unsigned vcpus) {
  CpuidPolicy policy;
  policy.kind = kind;
  policy.vcpu_count = vcpus;
  policy.tsc_khz = 2'500'000;
  policy.has_tsc_deadline = true;
  return policy;
}

bool has_bit(uint32_t value, unsigned bit) { return ((value >> bit) & 1U) != 0; }

TEST(KvmCpuid, leaf_1_names_the_vcpu_and_a_hypervisor) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Hardware, 3), VcpuId(2));
  const auto* leaf = find_leaf(entries, 1);
  ASSERT_NE(leaf, nullptr);
  EXPECT_EQ(leaf->ebx >> 24, 2U);
  EXPECT_EQ((leaf->ebx >> 16) & 0xff, 4U);  // a power of two
  EXPECT_TRUE(has_bit(leaf->ecx, 31));
  EXPECT_TRUE(has_bit(leaf->ecx, 24));
  EXPECT_TRUE(has_bit(leaf->edx, 28));
}

TEST(KvmCpuid, single_vcpu_has_no_siblings) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Hardware, 1), VcpuId(0));
  EXPECT_FALSE(has_bit(find_leaf(entries, 1)->edx, 28));
  EXPECT_EQ(find_leaf(entries, 0xb, 0)->ebx, 1U);
  EXPECT_EQ(find_leaf(entries, 0xb, 1)->eax, 0U);
}

TEST(KvmCpuid, what_nobody_serves_is_gone) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Hardware, 2), VcpuId(0));
  EXPECT_FALSE(has_bit(find_leaf(entries, 1)->ecx, 5)) << "VMX";
  EXPECT_FALSE(has_bit(find_leaf(entries, 1)->ecx, 3)) << "MONITOR";
  EXPECT_FALSE(has_bit(find_leaf(entries, 0x80000001)->ecx, 2)) << "SVM";
  EXPECT_FALSE(has_bit(find_leaf(entries, 7)->ebx, 2)) << "SGX";
  EXPECT_EQ(find_leaf(entries, 0xa)->eax, 0U) << "performance counters";
  EXPECT_TRUE(has_bit(find_leaf(entries, 7)->ebx, 20)) << "SMAP stays";
}

TEST(KvmCpuid, cpu_pm_gives_the_guest_mwait) {
  CpuidPolicy policy = policy_of(HostKind::Hardware, 1);
  policy.mwait_in_guest = true;
  EXPECT_TRUE(has_bit(find_leaf(guest_cpuid(host(), policy, VcpuId(0)), 1)->ecx, 3));
}

TEST(KvmCpuid, frequencies_are_told_where_they_are_known) {
  const auto told = guest_cpuid(host(), policy_of(HostKind::Hardware, 1), VcpuId(0));
  ASSERT_NE(find_leaf(told, 0x40000010), nullptr);
  EXPECT_EQ(find_leaf(told, 0x40000010)->eax, 2'500'000U);
  EXPECT_EQ(find_leaf(told, 0x40000000)->eax, 0x40000010U);
  CpuidPolicy unknown = policy_of(HostKind::Hardware, 1);
  unknown.tsc_khz = 0;
  EXPECT_EQ(find_leaf(guest_cpuid(host(), unknown, VcpuId(0)), 0x40000010), nullptr);
}

TEST(KvmCpuid, topology_says_one_package_of_single_threaded_cores) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Hardware, 6), VcpuId(5));
  EXPECT_EQ(find_leaf(entries, 0xb, 1)->eax, 3U);
  EXPECT_EQ(find_leaf(entries, 0xb, 1)->ebx, 6U);
  EXPECT_EQ(find_leaf(entries, 0xb, 0)->edx, 5U);
  EXPECT_EQ((find_leaf(entries, 4, 3)->eax >> 14) & 0xfff, 7U) << "the last level is shared";
}

TEST(KvmCpuid, pvm_guest_sees_no_smap_lass_and_xsaves) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Pvm, 1), VcpuId(0));
  EXPECT_FALSE(has_bit(find_leaf(entries, 7, 0)->ebx, 20)) << "SMAP";
  EXPECT_FALSE(has_bit(find_leaf(entries, 7, 1)->eax, 6)) << "LASS";
  EXPECT_FALSE(has_bit(find_leaf(entries, 0xd, 1)->eax, 3)) << "XSAVES";
  EXPECT_EQ(find_leaf(entries, 0xd, 1)->ecx, 0U) << "IA32_XSS";
  EXPECT_TRUE(has_bit(find_leaf(entries, 1)->ecx, 17)) << "PCID stays";
}

TEST(KvmCpuid, pvm_guest_sees_the_hypervisor_leaves_as_they_are) {
  const auto entries = guest_cpuid(host(), policy_of(HostKind::Pvm, 1), VcpuId(0));
  EXPECT_EQ(find_leaf(entries, 0x40000000)->eax, 0x40000001U);
  EXPECT_EQ(find_leaf(entries, 0x40000000)->ebx, 0x4b4d564bU);
  EXPECT_EQ(find_leaf(entries, 0x40000010), nullptr);
}

TEST(KvmCpuid, physical_address_bits_are_limited_where_asked) {
  CpuidPolicy policy = policy_of(HostKind::Pvm, 1);
  policy.max_phys_bits = kPvmMaxPhysBits;
  EXPECT_EQ(phys_bits(guest_cpuid(host(), policy, VcpuId(0))), 43U);
  EXPECT_EQ(phys_bits(guest_cpuid(host(), policy_of(HostKind::Hardware, 1), VcpuId(0))), 48U);
  EXPECT_EQ(phys_bits({}), 36U);
}

}  // namespace
}  // namespace trapeze::kvm
