// Every guest physical address and legacy port that the board fixes. docs/memory-map.md explains.
#pragma once

#include <cstdint>
#include <vector>

#include "base/strong.h"
#include "base/units.h"
#include "memory/guest_addr.h"

namespace trapeze::layout {

// RAM: [0, kLowRamEnd) and, when there is more, [4 GiB, ...). Between them lies the hole.
inline constexpr uint64_t kLowRamEnd = 3 * GiB;
inline constexpr Gpa kHighRamStart{4 * GiB};

// The hole, from 3 to 4 GiB.
inline constexpr GpaRange kPciMmio32{Gpa{0xc000'0000}, 0x2000'0000};  // 512 MiB of 32-bit BARs
inline constexpr GpaRange kPciEcam{Gpa{0xe000'0000}, 0x1000'0000};    // 256 buses
inline constexpr GpaRange kIoApic{Gpa{0xfec0'0000}, 0x1000};
inline constexpr GpaRange kLocalApic{Gpa{0xfee0'0000}, 0x1000};
inline constexpr GpaRange kTestRamMmio{Gpa{0xff00'0000}, 64 * KiB};  // CPU test images only
// 64-bit BARs start at the first GiB boundary above RAM and pmem, so that few physical address bits
// suffice.
inline constexpr uint64_t kPciMmio64Size = 64 * GiB;

// Low memory, below 1 MiB. Real-mode vectors, then what the VMM hands to the kernel.
inline constexpr Gpa kBootGdt{0x500};
inline constexpr Gpa kPvhStartInfo{0x6000};
inline constexpr Gpa kZeroPage{0x7000};
inline constexpr Gpa kBootStack{0x8ff0};
inline constexpr Gpa kBootPageTables{0x9000};  // 6 pages: PML4, PDPT, 4 page directories (4 GiB)
inline constexpr Gpa kCommandLine{0x20000};
inline constexpr uint64_t kCommandLineMaxBytes = 64 * KiB;
inline constexpr Gpa kEbda{0x9fc00};                     // reserved from here to 1 MiB
inline constexpr GpaRange kAcpi{Gpa{0xe0000}, 0x20000};  // RSDP first, then the tables

inline constexpr Port kPitBase{0x40};
inline constexpr Port kI8042{0x60};
inline constexpr Port kSystemControlB{0x61};
inline constexpr Port kRtc{0x70};
inline constexpr Port kTestDevice{0xe0};
inline constexpr Port kDebugExit{0xf4};
inline constexpr Port kSerial{0x3f8};
inline constexpr Port kFwCfg{0x510};
inline constexpr Port kPowerManagement{0x600};  // ACPI: sleep, reset, PM timer
inline constexpr Port kPciConfigAddress{0xcf8};
inline constexpr Port kPciConfigData{0xcfc};
inline constexpr Port kPciIoPorts{0xc000};   // I/O BARs, from here to the end
inline constexpr Port kTestIrqBase{0x2000};  // CPU test images only: port 0x2000+n sets GSI n
inline constexpr Port kShutdown{0x8900};     // Bochs shutdown port; CPU test images only

inline constexpr Gsi kPitGsi{2};  // ISA IRQ 0 is wired to I/O APIC pin 2, as on every PC
inline constexpr Gsi kSerialGsi{4};
inline constexpr Gsi kRtcGsi{8};
inline constexpr Gsi kSciGsi{9};
inline constexpr Gsi kPciIntxBase{16};  // INTA..INTD of the root bus: GSI 16..19
inline constexpr unsigned kIoApicPins = 24;

// The ranges of RAM for `size_bytes` of memory (a multiple of the page size).
std::vector<GpaRange> ram_ranges(uint64_t size_bytes);
// Where files that are the guest's memory (virtio-pmem) begin: the first GiB boundary above that
// RAM.
Gpa pmem_start(uint64_t ram_size_bytes);
// The 64-bit PCI window, above that RAM and so much of such memory.
GpaRange pci_mmio64(uint64_t ram_size_bytes, uint64_t pmem_bytes);

}  // namespace trapeze::layout
