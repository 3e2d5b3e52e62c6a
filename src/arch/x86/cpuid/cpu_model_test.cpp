#include "arch/x86/cpuid/cpu_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <tuple>

namespace trapeze {
namespace {

CpuModel model(unsigned vcpus = 1, std::string_view name = CpuModel::names().front()) {
  auto result = CpuModel::create(name, vcpus);
  CHECK(result.has_value());
  return *result;
}

uint32_t reg(const CpuidResult& result, CpuidRegister which) {
  switch (which) {
    case CpuidRegister::Eax:
      return result.eax;
    case CpuidRegister::Ebx:
      return result.ebx;
    case CpuidRegister::Ecx:
      return result.ecx;
    case CpuidRegister::Edx:
      return result.edx;
  }
  return 0;
}

TEST(CpuModel, UnknownName_ErrorListsKnownOnes) {
  auto result = CpuModel::create("pentium", 1);
  ASSERT_FALSE(result.has_value());
  for (std::string_view name : CpuModel::names())
    EXPECT_NE(result.error().message.find(name), std::string::npos);
}

TEST(CpuModel, VcpuCountOutOfRange_Refused) {
  EXPECT_FALSE(CpuModel::create("x86-64-v2", 0).has_value());
  EXPECT_FALSE(CpuModel::create("x86-64-v2", 255).has_value());
  EXPECT_TRUE(CpuModel::create("x86-64-v2", 254).has_value());
}

TEST(CpuModel, FirstNameIsTheDefault) { EXPECT_EQ(CpuModel::names().front(), "x86-64-v2"); }

TEST(CpuModel, FeatureLeaves_HoldExactlyWhatHasSays) {
  for (std::string_view name : CpuModel::names()) {
    const CpuModel cpu = model(2, name);
    std::set<std::tuple<uint32_t, CpuidRegister, unsigned>> known;
    for (const FeatureInfo& info : feature_table()) {
      EXPECT_TRUE(known.emplace(info.leaf, info.reg, info.bit).second) << info.name;
      const uint32_t bits = reg(cpu.cpuid(info.leaf, 0, VcpuId(0)), info.reg);
      EXPECT_EQ(((bits >> info.bit) & 1U) != 0, cpu.has(info.feature)) << name << " " << info.name;
    }
    // No bit that the table does not know.
    constexpr std::pair<uint32_t, CpuidRegister> kWords[] = {
        {1, CpuidRegister::Ecx},          {1, CpuidRegister::Edx},
        {7, CpuidRegister::Ebx},          {7, CpuidRegister::Ecx},
        {7, CpuidRegister::Edx},          {0x80000001, CpuidRegister::Ecx},
        {0x80000001, CpuidRegister::Edx}, {0x80000007, CpuidRegister::Edx}};
    for (auto [leaf, which] : kWords) {
      const uint32_t bits = reg(cpu.cpuid(leaf, 0, VcpuId(0)), which);
      for (unsigned bit = 0; bit < 32; ++bit) {
        if (((bits >> bit) & 1U) != 0) {
          EXPECT_TRUE(known.contains({leaf, which, bit})) << std::hex << leaf << " bit " << bit;
        }
      }
    }
  }
}

TEST(CpuModel, Default_HasLevel2AndNoVectorExtensionsThatNeedXsave) {
  const CpuModel cpu = model();
  for (Feature feature : {Feature::Cx16, Feature::LahfLm, Feature::Popcnt, Feature::Sse3,
                          Feature::Sse41, Feature::Sse42, Feature::Ssse3, Feature::Fsgsbase,
                          Feature::Smep, Feature::Smap, Feature::Pcid, Feature::Nx})
    EXPECT_TRUE(cpu.has(feature));
  for (Feature feature : {Feature::Xsave, Feature::Avx, Feature::Avx2, Feature::Fma, Feature::F16c,
                          Feature::Monitor, Feature::La57, Feature::Vme})
    EXPECT_FALSE(cpu.has(feature));
}

TEST(CpuModel, Level3_HasItsFeaturesAndLevel2) {
  const CpuModel cpu = model(1, "x86-64-v3");
  for (Feature feature : {Feature::Avx, Feature::Avx2, Feature::Fma, Feature::F16c, Feature::Bmi1,
                          Feature::Bmi2, Feature::Abm, Feature::Movbe, Feature::Xsave,
                          Feature::Sse42, Feature::Popcnt, Feature::Smap})
    EXPECT_TRUE(cpu.has(feature));
  EXPECT_EQ(cpu.xcr0_bits(), 7U);
  EXPECT_EQ(cpu.level3_features().size(), 8U);  // MOVBE is in every model but the baseline
}

TEST(CpuModel, XsaveLeaf_TellsComponentsAndSizes) {
  const CpuModel cpu = model(1, "x86-64-v3");
  EXPECT_EQ(cpu.cpuid(0xd, 0, VcpuId(0)), (CpuidResult{7, 576, 832, 0}));
  EXPECT_EQ(cpu.cpuid(0xd, 1, VcpuId(0)), (CpuidResult{7, 576, 0, 0}));  // no XSAVES
  EXPECT_EQ(cpu.cpuid(0xd, 2, VcpuId(0)), (CpuidResult{256, 576, 0, 0}));
  EXPECT_EQ(cpu.cpuid(0xd, 3, VcpuId(0)), CpuidResult{});
  for (uint32_t subleaf = 0; subleaf < 3; ++subleaf) {
    EXPECT_EQ(model().cpuid(0xd, subleaf, VcpuId(0)), CpuidResult{});
  }
  EXPECT_EQ(model().xcr0_bits(), 1U);
  EXPECT_TRUE(model().level3_features().empty());
}

TEST(CpuModel, Baseline_HasNoneOfLevel2) {
  const CpuModel cpu = model(1, "x86-64");
  EXPECT_TRUE(cpu.has(Feature::Sse2));
  EXPECT_FALSE(cpu.has(Feature::Sse3));
  EXPECT_FALSE(cpu.has(Feature::Popcnt));
}

TEST(CpuModel, VendorAndBrand_AreReadable) {
  const CpuModel cpu = model();
  const CpuidResult vendor = cpu.cpuid(0, 0, VcpuId(0));
  char text[49] = {};
  std::memcpy(text, &vendor.ebx, 4);
  std::memcpy(text + 4, &vendor.edx, 4);
  std::memcpy(text + 8, &vendor.ecx, 4);
  EXPECT_STREQ(text, "GenuineIntel");
  EXPECT_EQ(vendor.eax, 0x1fU);
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidResult part = cpu.cpuid(0x80000002 + i, 0, VcpuId(0));
    std::memcpy(text + i * 16, &part, 16);
  }
  EXPECT_STREQ(text, "Trapeze soft CPU");
}

TEST(CpuModel, KvmLeaves_SignatureAndStableClock) {
  const CpuModel cpu = model();
  const CpuidResult base = cpu.cpuid(0x40000000, 0, VcpuId(0));
  char text[13] = {};
  std::memcpy(text, &base.ebx, 12);
  EXPECT_STREQ(text, "KVMKVMKVM");
  EXPECT_EQ(base.eax, 0x40000010U);
  // CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE; nothing that nobody serves.
  EXPECT_EQ(cpu.cpuid(0x40000001, 0, VcpuId(0)).eax, 0x0100080bU);
  EXPECT_EQ(cpu.cpuid(0x40000010, 0, VcpuId(0)).eax, 1'000'000U);
}

TEST(CpuModel, Frequencies_AgreeBetweenLeaves) {
  const CpuModel cpu = model();
  const CpuidResult tsc = cpu.cpuid(0x15, 0, VcpuId(0));
  const uint64_t hz = uint64_t{tsc.ecx} * tsc.ebx / tsc.eax;
  EXPECT_EQ(hz, 1'000'000'000U);
  EXPECT_EQ(cpu.cpuid(0x16, 0, VcpuId(0)).eax, hz / 1'000'000);
  EXPECT_EQ(cpu.cpuid(0x40000010, 0, VcpuId(0)).eax, hz / 1000);
}

TEST(CpuModel, Topology_EveryVcpuIsACoreOfOnePackage) {
  const CpuModel cpu = model(6);
  EXPECT_TRUE(cpu.has(Feature::Htt));
  const CpuidResult one = cpu.cpuid(1, 0, VcpuId(5));
  EXPECT_EQ(one.ebx >> 24, 5U);
  EXPECT_EQ((one.ebx >> 16) & 0xff, 8U);  // IDs reserved: the next power of two
  for (uint32_t leaf : {0xbU, 0x1fU}) {
    const CpuidResult smt = cpu.cpuid(leaf, 0, VcpuId(5));
    EXPECT_EQ(smt, (CpuidResult{0, 1, 0x100, 5}));
    const CpuidResult core = cpu.cpuid(leaf, 1, VcpuId(5));
    EXPECT_EQ(core, (CpuidResult{3, 6, 0x201, 5}));
    EXPECT_EQ(cpu.cpuid(leaf, 2, VcpuId(5)), (CpuidResult{0, 0, 2, 5}));
  }
  const CpuModel single = model(1);
  EXPECT_FALSE(single.has(Feature::Htt));
  EXPECT_EQ(single.cpuid(0xb, 1, VcpuId(0)).eax, 0U);
}

TEST(CpuModel, Caches_SizesMatchExtendedLeaf) {
  const CpuModel cpu = model(4);
  auto size_kib = [&](uint32_t subleaf) {
    const CpuidResult c = cpu.cpuid(4, subleaf, VcpuId(0));
    return ((c.ebx >> 22) + 1) * ((c.ebx & 0xfff) + 1) * (c.ecx + 1) / 1024;
  };
  EXPECT_EQ(size_kib(0), 32U);
  EXPECT_EQ(size_kib(2), cpu.cpuid(0x80000006, 0, VcpuId(0)).ecx >> 16);
  EXPECT_EQ(size_kib(3), 16384U);
  EXPECT_EQ((cpu.cpuid(4, 3, VcpuId(0)).eax >> 14) & 0xfff, 3U);
  EXPECT_EQ(cpu.cpuid(4, 4, VcpuId(0)), CpuidResult{});
}

TEST(CpuModel, LeavesOutOfRange_AreZero) {
  const CpuModel cpu = model();
  for (uint32_t leaf : {0x20U, 0x1000U, 0x3fffffffU, 0x40000002U, 0x40000011U, 0x7fffffffU,
                        0x80000009U, 0xc0000000U, 0xffffffffU})
    EXPECT_EQ(cpu.cpuid(leaf, 0, VcpuId(0)), CpuidResult{}) << std::hex << leaf;
}

TEST(CpuModel, AddressSizes) {
  const CpuModel cpu = model();
  EXPECT_EQ(cpu.cpuid(0x80000008, 0, VcpuId(0)).eax, cpu.phys_bits() | (48U << 8));
}

}  // namespace
}  // namespace trapeze
