// MSRs, host kinds, routes, exits: the rules of accel/kvm that are plain values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "accel/kvm/device.h"
#include "accel/kvm/exits.h"
#include "accel/kvm/msrs.h"
#include "accel/kvm/routes.h"
#include "accel/kvm/split_chips.h"

namespace trapeze::kvm {
namespace {

bool contains(const std::vector<uint32_t>& indices, uint32_t index) {
  return std::find(indices.begin(), indices.end(), index) != indices.end();
}

TEST(KvmMsrs, list_without_what_is_told_elsewhere_and_with_mtrrs) {
  const std::vector<uint32_t> listed{0x10,       0x1b,       0xc0000080, 0x480,
                                     0x40000001, 0x4b564d01, 0xc1,       0x34};
  const auto indices = msrs_to_save(listed, HostKind::Hardware);
  EXPECT_TRUE(contains(indices, 0x10));
  EXPECT_TRUE(contains(indices, 0x4b564d01));
  EXPECT_TRUE(contains(indices, kMsrMtrrDefType));
  for (const uint32_t left_out : {0x1bU, 0xc0000080U, 0x480U, 0x40000001U, 0xc1U, 0x34U}) {
    EXPECT_FALSE(contains(indices, left_out)) << std::hex << left_out;
  }
}

TEST(KvmMsrs, pvm_hosts_have_theirs_although_they_list_them_not) {
  const std::vector<uint32_t> listed{0x10, 0x4b564d00};
  const auto indices = msrs_to_save(listed, HostKind::Pvm);
  for (uint32_t index = kMsrPvmFirst; index <= kMsrPvmLast; ++index) {
    EXPECT_TRUE(contains(indices, index)) << std::hex << index;
    EXPECT_FALSE(contains(msrs_to_save(listed, HostKind::Hardware), index));
  }
}

TEST(KvmMsrs, tsc_comes_first_and_deadline_and_guest_pages_last) {
  std::vector<MsrValue> msrs{{kMsrTscDeadline, 1}, {kMsrPvmVcpuStruct, 2}, {0x4b564d01, 3},
                             {0x277, 4},           {kMsrPvmFirst, 5},      {kMsrTsc, 6}};
  sort_for_restore(msrs);
  std::vector<uint32_t> order;
  for (const auto& msr : msrs) order.push_back(msr.index);
  EXPECT_EQ(order, (std::vector<uint32_t>{kMsrTsc, 0x277, 0x4b564d01, kMsrPvmFirst,
                                          kMsrPvmVcpuStruct, kMsrTscDeadline}));
}

TEST(KvmMsrs, only_harmless_refusals_are_tolerated) {
  EXPECT_TRUE(may_be_refused(0x3a, 5));
  EXPECT_TRUE(may_be_refused(0x10a, 1));
  EXPECT_TRUE(may_be_refused(0xc0010200, 0));
  EXPECT_FALSE(may_be_refused(kMsrTsc, 0));
  EXPECT_FALSE(may_be_refused(0xc0000082, 0xffffffff81000000)) << "LSTAR";
  EXPECT_FALSE(may_be_refused(kMsrPvmVcpuStruct, 0x1001)) << "a PVM guest that was running";
  EXPECT_TRUE(may_be_refused(kMsrPvmVcpuStruct, 0));
}

TEST(KvmHost, kind_goes_by_cpu_and_module) {
  EXPECT_EQ(classify({.cpu_has_vmx = true, .intel_module = true}), HostKind::Hardware);
  EXPECT_EQ(classify({.cpu_has_svm = true}), HostKind::Hardware) << "kvm_amd built in";
  EXPECT_EQ(classify({}), HostKind::Pvm);
  EXPECT_EQ(classify({.pvm_module = true}), HostKind::Pvm);
  EXPECT_EQ(classify({.cpu_has_vmx = true, .pvm_module = true}), HostKind::Pvm)
      << "PVM chosen on a machine with VT-x";
  EXPECT_EQ(classify({.cpu_has_vmx = true, .pvm_module = true, .intel_module = true}),
            HostKind::Hardware);
}

TEST(KvmHost, modules_are_read_from_sysfs) {
  std::string folder = ::testing::TempDir() + "trapeze-sysfs-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  std::filesystem::create_directories(folder + "/module/kvm_pvm");
  const HostFacts facts = read_host_facts(folder);
  EXPECT_TRUE(facts.pvm_module);
  EXPECT_FALSE(facts.amd_module);
  std::filesystem::remove_all(folder);
}

TEST(KvmDevice, missing_device_says_what_to_do) {
  const auto device = KvmDevice::open("/nonexistent/kvm");
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("--accel soft"), std::string::npos);
  EXPECT_EQ(device.error().os_error, ENOENT);
}

TEST(KvmDevice, other_device_is_told_from_kvm) {
  const auto device = KvmDevice::open("/dev/null");
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("does not answer as KVM"), std::string::npos);
}

TEST(KvmRoutes, pit_reaches_pin_2_and_isa_wires_both_controllers) {
  const auto routes = kernel_chip_routes();
  const auto has = [&](uint32_t gsi, uint32_t chip, uint32_t pin) {
    return std::any_of(routes.begin(), routes.end(), [&](const kvm_irq_routing_entry& entry) {
      return entry.gsi == gsi && entry.u.irqchip.irqchip == chip && entry.u.irqchip.pin == pin;
    });
  };
  EXPECT_TRUE(has(0, KVM_IRQCHIP_IOAPIC, 2));
  EXPECT_TRUE(has(0, KVM_IRQCHIP_PIC_MASTER, 0));
  EXPECT_FALSE(has(0, KVM_IRQCHIP_IOAPIC, 0));
  EXPECT_TRUE(has(4, KVM_IRQCHIP_PIC_MASTER, 4));
  EXPECT_TRUE(has(9, KVM_IRQCHIP_PIC_SLAVE, 1));
  EXPECT_TRUE(has(23, KVM_IRQCHIP_IOAPIC, 23));
  EXPECT_FALSE(has(2, KVM_IRQCHIP_IOAPIC, 2)) << "GSI 2 is the PIT's alone";
}

TEST(KvmRoutes, masked_redirection_entry_has_no_route) {
  EXPECT_FALSE(redirection_route(5, 1U << 16));
  const auto route = redirection_route(5, uint64_t{3} << 56 | 1U << 15 | 0x41);
  ASSERT_TRUE(route);
  EXPECT_EQ(route->gsi, 5U);
  EXPECT_EQ(route->u.msi.address_lo, 0xfee03000U);
  EXPECT_EQ(route->u.msi.data & 0x80ffU, 0x8041U);
}

TEST(KvmExits, are_counted_by_reason_and_port) {
  ExitCounters counters;
  counters.count(KVM_EXIT_IO);
  counters.count(KVM_EXIT_IO);
  counters.count(KVM_EXIT_MMIO);
  counters.count(1'000'000);
  counters.count_port(0x3f8);
  counters.count_page(0xc0003008);
  const std::vector<Stat> expected{{"exit.all", 4},   {"exit.io", 2},  {"exit.mmio", 1},
                                   {"exit.other", 1}, {"io.0x3f8", 1}, {"mmio.0xc0003000", 1}};
  EXPECT_EQ(counters.stats(), expected);
}

TEST(KvmExits, hostile_guest_cannot_make_the_list_long) {
  ExitCounters counters;
  for (uint32_t port = 0; port < 0x10000; ++port) counters.count_port(static_cast<uint16_t>(port));
  const auto stats = counters.stats();
  EXPECT_LT(stats.size(), 64U);
  EXPECT_EQ(stats.back(), (Stat{"io.other", 0x10000 - 48}));
}

TEST(KvmExits, emulation_failure_shows_the_instruction) {
  kvm_run run{};
  run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
  run.emulation_failure.ndata = 3;
  run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
  run.emulation_failure.insn_size = 2;
  run.emulation_failure.insn_bytes[0] = 0x0f;
  run.emulation_failure.insn_bytes[1] = 0xc7;
  const std::string text = describe_exit(run);
  EXPECT_NE(text.find("cannot emulate"), std::string::npos);
  EXPECT_NE(text.find("0f c7"), std::string::npos);
}

}  // namespace
}  // namespace trapeze::kvm
