// ACPI tables of the board (ACPI 6.4), hardware-reduced: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG,
// DSDT. A pure function of AcpiConfig; no thread, no file.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "memory/guest_addr.h"

namespace trapeze::acpi {

struct AcpiConfig {
  uint32_t vcpus = 1;           // APIC IDs 0 to vcpus-1; x2APIC entries from 255 on
  uint64_t ram_size_bytes = 0;  // these two place the 64-bit PCI window (layout::pci_mmio64)
  uint64_t pmem_bytes = 0;
  bool has_pci = true;
  bool has_serial = true;  // COM1
  bool has_rtc = true;
  bool has_i8042 = false;  // tells the guest that probing ports 0x60 and 0x64 is worth its time
};

struct AcpiImage {
  Gpa base;                    // layout::kAcpi: the RSDP is the first byte
  std::vector<uint8_t> bytes;  // to be copied to guest memory there
  Gpa rsdp() const { return base; }
};

// Fails when the configuration cannot be expressed, or does not fit into layout::kAcpi.
Result<AcpiImage> build_tables(const AcpiConfig& config);

}  // namespace trapeze::acpi
