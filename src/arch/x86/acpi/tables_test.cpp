#include "arch/x86/acpi/tables.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <string>

#include "arch/x86/acpi/pm_registers.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::acpi {
namespace {

// Reads an image as a guest does: from the RSDP on, following addresses.
class Walker {
 public:
  explicit Walker(const AcpiConfig& config) : image_(*build_tables(config)) {
    EXPECT_EQ(text(image_.base, 8), "RSD PTR ");
    EXPECT_EQ(sum(image_.base, 20), 0);
    EXPECT_EQ(sum(image_.base, 36), 0);
    const Gpa xsdt{load<uint64_t>(image_.base + 24)};
    const Gpa rsdt{load<uint32_t>(image_.base + 16)};
    const uint32_t entries = (length_of(xsdt, "XSDT") - 36) / 8;
    EXPECT_EQ((length_of(rsdt, "RSDT") - 36) / 4, entries);
    for (uint32_t i = 0; i < entries; ++i) {
      const Gpa at{load<uint64_t>(xsdt + 36 + 8 * i)};
      EXPECT_EQ(load<uint32_t>(rsdt + 36 + 4 * i), at.raw());
      add(at);
    }
    add(Gpa{load<uint64_t>(tables_.at("FACP") + 140)});
  }

  template <typename T>
  T load(Gpa at) const {
    return load_le<T>(std::as_bytes(std::span(image_.bytes)), at - image_.base);
  }
  std::string text(Gpa at, uint64_t len) const {
    const auto from = image_.bytes.begin() + static_cast<ptrdiff_t>(at - image_.base);
    return {from, from + static_cast<ptrdiff_t>(len)};
  }
  unsigned sum(Gpa at, uint64_t len) const {
    const std::string bytes = text(at, len);
    return std::accumulate(bytes.begin(), bytes.end(), 0U,
                           [](unsigned a, char b) { return (a + static_cast<uint8_t>(b)) & 0xff; });
  }
  // Checks header and checksum.
  uint32_t length_of(Gpa at, const std::string& signature) const {
    EXPECT_EQ(text(at, 4), signature);
    const auto length = load<uint32_t>(at + 4);
    EXPECT_GE(length, 36U);
    EXPECT_EQ(sum(at, length), 0U) << signature;
    return length;
  }
  bool has(const std::string& signature) const { return tables_.contains(signature); }
  Gpa at(const std::string& signature) const { return tables_.at(signature); }
  std::string table(const std::string& signature) const {
    return text(at(signature), length_of(at(signature), signature));
  }
  const std::map<std::string, Gpa>& tables() const { return tables_; }
  const AcpiImage& image() const { return image_; }

 private:
  void add(Gpa at) {
    const std::string signature = text(at, 4);
    length_of(at, signature);
    tables_[signature] = at;
  }

  AcpiImage image_;
  std::map<std::string, Gpa> tables_;
};

constexpr AcpiConfig kTwoVcpus{.vcpus = 2, .ram_size_bytes = 512 * MiB};

TEST(AcpiTables, every_table_has_a_sound_header_and_lies_inside_the_area) {
  const Walker walker(kTwoVcpus);
  EXPECT_EQ(walker.image().base, layout::kAcpi.start);
  EXPECT_LE(walker.image().bytes.size(), layout::kAcpi.size);
  for (const char* signature : {"FACP", "APIC", "MCFG", "DSDT"}) {
    EXPECT_TRUE(walker.has(signature)) << signature;
  }
}

TEST(AcpiTables, fadt_points_to_the_registers_of_the_pm_device) {
  const Walker walker(kTwoVcpus);
  const Gpa fadt = walker.at("FACP");
  EXPECT_EQ(walker.load<uint32_t>(fadt + 112) & (1U << 20), 1U << 20);   // hardware-reduced
  EXPECT_EQ(walker.load<uint64_t>(fadt + 120), 0x602U);                  // reset
  EXPECT_EQ(walker.load<uint8_t>(fadt + 128), kResetValue);              //
  EXPECT_EQ(walker.load<uint32_t>(fadt + 76), 0x608U);                   // PM timer, 32-bit field
  EXPECT_EQ(walker.load<uint64_t>(fadt + 212), 0x608U);                  // and X field
  EXPECT_EQ(walker.load<uint64_t>(fadt + 248), 0x600U);                  // sleep control
  EXPECT_EQ(walker.load<uint64_t>(fadt + 260), 0x601U);                  // sleep status
  EXPECT_EQ(walker.load<uint32_t>(fadt + 40), walker.at("DSDT").raw());  // DSDT
  EXPECT_EQ(walker.text(Gpa{walker.load<uint32_t>(fadt + 36)}, 4), "FACS");
  EXPECT_EQ(walker.load<uint32_t>(fadt + 36) % 64, 0U);
}

// Type and contents of each MADT entry.
std::multimap<int, std::string> madt_entries(const Walker& walker) {
  const std::string madt = walker.table("APIC");
  std::multimap<int, std::string> entries;
  size_t at = 44;
  while (at < madt.size()) {
    const auto length = static_cast<uint8_t>(madt.at(at + 1));
    EXPECT_LE(at + length, madt.size());
    if (length < 2) break;
    entries.emplace(static_cast<uint8_t>(madt[at]), madt.substr(at, length));
    at += length;
  }
  return entries;
}

TEST(AcpiTables, madt_lists_each_vcpu_and_the_irq0_override) {
  const Walker walker({.vcpus = 3, .ram_size_bytes = 512 * MiB});
  const auto entries = madt_entries(walker);
  EXPECT_EQ(entries.count(0), 3U);
  EXPECT_EQ(entries.count(9), 0U);
  EXPECT_EQ(entries.count(1), 1U);
  ASSERT_EQ(entries.count(2), 1U);
  EXPECT_EQ(entries.find(2)->second, std::string("\x02\x0a\x00\x00\x02\x00\x00\x00\x00\x00", 10));
  ASSERT_EQ(entries.count(4), 1U);
  EXPECT_EQ(entries.find(4)->second, std::string("\x04\x06\xff\x00\x00\x01", 6));
}

TEST(AcpiTables, many_vcpus_get_x2apic_entries) {
  const Walker walker({.vcpus = 300, .ram_size_bytes = 512 * MiB});
  const auto entries = madt_entries(walker);
  EXPECT_EQ(entries.count(0), 255U);
  EXPECT_EQ(entries.count(9), 45U);
  EXPECT_EQ(entries.count(10), 1U);
}

TEST(AcpiTables, absurd_vcpu_counts_are_refused) {
  EXPECT_FALSE(build_tables({.vcpus = 0}).has_value());
  EXPECT_FALSE(build_tables({.vcpus = 1'000'000}).has_value());
}

TEST(AcpiTables, mcfg_names_the_one_bus_that_is_populated) {
  const Walker walker(kTwoVcpus);
  const Gpa mcfg = walker.at("MCFG");
  EXPECT_EQ(walker.load<uint64_t>(mcfg + 44), layout::kPciEcam.start.raw());
  EXPECT_EQ(walker.load<uint8_t>(mcfg + 54), 0U);
  EXPECT_EQ(walker.load<uint8_t>(mcfg + 55), 0U);
}

TEST(AcpiTables, without_pci_there_is_no_mcfg_and_no_root_bridge) {
  const Walker walker({.vcpus = 1, .ram_size_bytes = 512 * MiB, .has_pci = false});
  EXPECT_FALSE(walker.has("MCFG"));
  EXPECT_EQ(walker.table("DSDT").find("PCI0"), std::string::npos);
}

// iasl, the reference compiler of ACPICA, disassembles what we made.
class Iasl : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v iasl >/dev/null 2>&1") != 0) {
      GTEST_SKIP() << "iasl is not installed (package acpica-tools)";
    }
    std::string pattern = testing::TempDir() + "acpi-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    if (folder_.empty()) return;
    EXPECT_EQ(std::system(("rm -r " + folder_).c_str()), 0);
  }
  // The ASL text, or what iasl complained about.
  std::string disassemble(const Walker& walker, const std::string& signature) const {
    const std::string stem = folder_ + "/" + signature;
    std::ofstream(stem + ".aml", std::ios::binary) << walker.table(signature);
    const std::string command = "iasl -d " + stem + ".aml >" + stem + ".log 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << slurp(stem + ".log");
    const std::string log = slurp(stem + ".log");
    EXPECT_EQ(log.find("rror"), std::string::npos) << log;
    EXPECT_EQ(log.find("arning"), std::string::npos) << log;
    return slurp(stem + ".dsl");
  }
  // True when iasl compiles its own disassembly without errors or warnings.
  void expect_recompiles(const std::string& signature) const {
    const std::string stem = folder_ + "/" + signature;
    const std::string command =
        "iasl -p " + stem + "-again " + stem + ".dsl >" + stem + ".log 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);
    const std::string log = slurp(stem + ".log");
    EXPECT_NE(log.find("0 Errors, 0 Warnings"), std::string::npos) << log;
  }
  static std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  std::string folder_;
};

TEST_F(Iasl, reads_the_dsdt_as_meant) {
  const Walker walker({.vcpus = 1, .ram_size_bytes = 6 * GiB});
  const std::string asl = disassemble(walker, "DSDT");
  for (const char* wanted :
       {"Device (PCI0)", "EisaId (\"PNP0A08\")", "Device (COM1)", "Name (_PRT, Package (0x80)",
        "Name (\\_S5, Package (0x04)", "Method (_OSC, 4, Serialized)", "QWordMemory",
        "0x00000001C0000000, // Range Minimum", "0xC0000000,         // Range Minimum",
        "0x0D00,             // Range Minimum", "IRQNoFlags", "EisaId (\"PNP0B00\")",
        "0xE0000000,         // Address Base",
        "ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")"}) {
    EXPECT_NE(asl.find(wanted), std::string::npos) << wanted << "\n" << asl;
  }
  expect_recompiles("DSDT");
}

TEST_F(Iasl, the_pci_window_lies_above_files_that_are_memory) {
  const Walker walker({.vcpus = 1, .ram_size_bytes = 6 * GiB, .pmem_bytes = 1 * GiB + 2 * MiB});
  EXPECT_NE(disassemble(walker, "DSDT").find("0x0000000240000000, // Range Minimum"),
            std::string::npos);
}

TEST_F(Iasl, reads_the_data_tables) {
  const Walker walker(kTwoVcpus);
  EXPECT_NE(disassemble(walker, "FACP").find("Hardware Reduced (V5) : 1"), std::string::npos);
  EXPECT_NE(disassemble(walker, "APIC").find("Local Apic Address : FEE00000"), std::string::npos);
  EXPECT_NE(disassemble(walker, "MCFG").find("00000000E0000000"), std::string::npos);
}

}  // namespace
}  // namespace trapeze::acpi
