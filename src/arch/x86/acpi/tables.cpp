#include "arch/x86/acpi/tables.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <string_view>

#include "arch/x86/acpi/dsdt.h"
#include "arch/x86/acpi/pm_registers.h"
#include "base/bytes.h"
#include "base/units.h"

namespace trapeze::acpi {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kHeaderBytes = 36;
constexpr size_t kRsdpBytes = 36;
constexpr size_t kFacsBytes = 64;
constexpr size_t kFadtBytes = 276;
constexpr uint32_t kMaxVcpus = 2048;  // as many entries as fit comfortably
constexpr uint32_t kFirstX2apicId = 255;

template <typename T>
void put(Bytes& to, T value) {
  for (unsigned i = 0; i < sizeof(T); ++i) {
    to.push_back(static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}

template <typename T>
void set(Bytes& in, size_t offset, T value) {
  store_le<T>(std::as_writable_bytes(std::span(in)), offset, value);
}

void put_text(Bytes& to, std::string_view text) { to.insert(to.end(), text.begin(), text.end()); }

// What makes the sum of the bytes zero.
uint8_t checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0U));
}

// System description table header (§5.2.6). seal() fills in length and checksum.
Bytes table(std::string_view signature, uint8_t revision) {
  Bytes out;
  put_text(out, signature);
  put(out, uint32_t{0});
  put(out, revision);
  put(out, uint8_t{0});
  put_text(out, "TRAPEZ");
  put_text(out, "TRAPEZE ");
  put(out, uint32_t{1});
  put_text(out, "TRPZ");
  put(out, uint32_t{1});
  CHECK(out.size() == kHeaderBytes);
  return out;
}

void seal(Bytes& sealed) {
  set(sealed, 4, static_cast<uint32_t>(sealed.size()));
  set(sealed, 9, uint8_t{0});
  set(sealed, 9, checksum(sealed));
}

// Generic Address Structure for a port (§5.2.3.2).
void set_port(Bytes& in, size_t offset, uint16_t port, uint8_t bits) {
  constexpr uint8_t kSystemIo = 1;
  in[offset] = kSystemIo;
  in[offset + 1] = bits;
  in[offset + 2] = 0;
  in[offset + 3] = static_cast<uint8_t>(bits == 8 ? 1 : bits == 16 ? 2 : 3);  // access size
  set(in, offset + 4, uint64_t{port});
}

// Fixed ACPI Description Table (§5.2.9). With HW_REDUCED_ACPI the PM1 and GPE blocks do not exist;
// the PM timer and the FACS are still given, for those who look for them.
Bytes fadt(const AcpiConfig& config, Gpa dsdt, Gpa facs) {
  constexpr uint32_t kFlagWbinvd = 1U << 0;
  constexpr uint32_t kFlagC1 = 1U << 2;
  constexpr uint32_t kFlagNoPowerButton = 1U << 4;
  constexpr uint32_t kFlagNoSleepButton = 1U << 5;
  constexpr uint32_t kFlagNoFixedRtcWake = 1U << 6;
  constexpr uint32_t kFlagTimer32Bits = 1U << 8;
  constexpr uint32_t kFlagResetRegister = 1U << 10;
  constexpr uint32_t kFlagHardwareReduced = 1U << 20;
  constexpr uint16_t kBootLegacyDevices = 1U << 0;
  constexpr uint16_t kBoot8042 = 1U << 1;
  constexpr uint16_t kBootNoVga = 1U << 2;
  constexpr uint16_t kBootNoCmosRtc = 1U << 5;

  Bytes out = table("FACP", 6);
  out.resize(kFadtBytes);
  set(out, 36, static_cast<uint32_t>(facs.raw()));
  set(out, 40, static_cast<uint32_t>(dsdt.raw()));
  set(out, 46, static_cast<uint16_t>(layout::kSciGsi.raw()));
  set(out, 76, uint32_t{pm_port(kPmTimerOffset)});
  set(out, 91, uint8_t{4});                                        // PM_TMR_LEN
  set(out, 96, uint16_t{101});                                     // P_LVL2_LAT: above 100, no C2
  set(out, 98, uint16_t{1001});                                    // P_LVL3_LAT: above 1000, no C3
  set(out, 108, static_cast<uint8_t>(config.has_rtc ? 0x32 : 0));  // CENTURY
  unsigned boot = kBootNoVga;
  if (config.has_serial) boot |= kBootLegacyDevices;
  if (config.has_i8042) boot |= kBoot8042;
  if (!config.has_rtc) boot |= kBootNoCmosRtc;
  set(out, 109, static_cast<uint16_t>(boot));
  set(out, 112,
      kFlagWbinvd | kFlagC1 | kFlagNoPowerButton | kFlagNoSleepButton | kFlagNoFixedRtcWake |
          kFlagTimer32Bits | kFlagResetRegister | kFlagHardwareReduced);
  set_port(out, 116, pm_port(kResetOffset), 8);
  set(out, 128, kResetValue);
  set(out, 131, uint8_t{4});  // minor version: 6.4
  set(out, 140, dsdt.raw());  // X_DSDT
  set_port(out, 208, pm_port(kPmTimerOffset), 32);
  set_port(out, 244, pm_port(kSleepControlOffset), 8);
  set_port(out, 256, pm_port(kSleepStatusOffset), 8);
  seal(out);
  return out;
}

// Firmware ACPI Control Structure (§5.2.10): no checksum.
Bytes facs() {
  Bytes out;
  put_text(out, "FACS");
  put(out, uint32_t{kFacsBytes});
  out.resize(kFacsBytes);
  set(out, 32, uint8_t{2});  // version
  return out;
}

// Multiple APIC Description Table (§5.2.12). APIC ID n is vCPU n.
Bytes madt(const AcpiConfig& config) {
  constexpr uint32_t kHas8259 = 1;
  constexpr uint32_t kEnabled = 1;
  Bytes out = table("APIC", 5);
  put(out, static_cast<uint32_t>(layout::kLocalApic.start.raw()));
  put(out, kHas8259);
  for (uint32_t id = 0; id < config.vcpus; ++id) {
    if (id < kFirstX2apicId) {  // processor local APIC
      out.insert(out.end(), {0, 8, static_cast<uint8_t>(id), static_cast<uint8_t>(id)});
      put(out, kEnabled);
    } else {  // processor local x2APIC
      out.insert(out.end(), {9, 16, 0, 0});
      put(out, id);
      put(out, kEnabled);
      put(out, id);
    }
  }
  out.insert(out.end(), {1, 12, 0, 0});  // I/O APIC with ID 0
  put(out, static_cast<uint32_t>(layout::kIoApic.start.raw()));
  put(out, uint32_t{0});                 // its first GSI
  out.insert(out.end(), {2, 10, 0, 0});  // ISA IRQ 0 ...
  put(out, layout::kPitGsi.raw());       // ... is this GSI
  put(out, uint16_t{0});                 // as the bus has it: edge, active high
  out.insert(out.end(), {4, 6, 0xff});   // all processors: NMI ...
  put(out, uint16_t{0});
  put(out, uint8_t{1});                 // ... at LINT1
  if (config.vcpus > kFirstX2apicId) {  // the same for x2APIC entries
    out.insert(out.end(), {10, 12, 0, 0});
    put(out, ~uint32_t{0});
    out.insert(out.end(), {1, 0, 0, 0});
  }
  seal(out);
  return out;
}

// PCI Express memory mapped configuration space (PCI Firmware 3.2 §4.1.2).
Bytes mcfg() {
  Bytes out = table("MCFG", 1);
  put(out, uint64_t{0});
  put(out, layout::kPciEcam.start.raw());
  put(out, uint16_t{0});  // segment
  put(out, uint8_t{0});   // first bus
  // And last: the only one there is. ECAM answers for all 256, but Linux looks for devices on every
  // bus named here by the ports, two exits each (pcibios_fixup_peer_bridges): 16,320 a boot.
  put(out, uint8_t{0});
  put(out, uint32_t{0});
  seal(out);
  return out;
}

Bytes dsdt(const AcpiConfig& config) {
  Bytes out = table("DSDT", 2);
  const Bytes aml = dsdt_aml(config);
  out.insert(out.end(), aml.begin(), aml.end());
  seal(out);
  return out;
}

// The list of tables, with 32-bit or 64-bit addresses (§5.2.7, §5.2.8).
template <typename Address>
Bytes root_table(std::string_view signature, std::span<const Gpa> tables) {
  Bytes out = table(signature, 1);
  for (const Gpa gpa : tables) put(out, static_cast<Address>(gpa.raw()));
  seal(out);
  return out;
}

// Root System Description Pointer (§5.2.5).
Bytes rsdp(Gpa rsdt, Gpa xsdt) {
  constexpr size_t kFirstPart = 20;  // what ACPI 1.0 knows
  Bytes out;
  put_text(out, "RSD PTR ");
  put(out, uint8_t{0});
  put_text(out, "TRAPEZ");
  put(out, uint8_t{2});
  put(out, static_cast<uint32_t>(rsdt.raw()));
  put(out, static_cast<uint32_t>(kRsdpBytes));
  put(out, xsdt.raw());
  out.resize(kRsdpBytes);
  out[8] = checksum(std::span(out).first(kFirstPart));
  out[32] = checksum(out);
  return out;
}

// Lays tables behind each other.
class Layout {
 public:
  explicit Layout(Gpa base, size_t first_free) : base_(base), bytes_(first_free) {}
  Gpa place(const Bytes& placed, uint64_t alignment = 16) {
    bytes_.resize(align_up(bytes_.size(), alignment));
    const Gpa at = base_ + bytes_.size();
    bytes_.insert(bytes_.end(), placed.begin(), placed.end());
    return at;
  }
  Bytes& bytes() { return bytes_; }

 private:
  Gpa base_;
  Bytes bytes_;
};

}  // namespace

Result<AcpiImage> build_tables(const AcpiConfig& config) {
  if (config.vcpus == 0 || config.vcpus > kMaxVcpus) {
    return fail("ACPI tables: {} vCPUs; 1 to {} can be described", config.vcpus, kMaxVcpus);
  }
  const Gpa base = layout::kAcpi.start;
  Layout image(base, kRsdpBytes);
  const Gpa facs_at = image.place(facs(), kFacsBytes);
  const Gpa dsdt_at = image.place(dsdt(config));
  std::vector<Gpa> tables{image.place(fadt(config, dsdt_at, facs_at)), image.place(madt(config))};
  if (config.has_pci) tables.push_back(image.place(mcfg()));
  const Gpa rsdt_at = image.place(root_table<uint32_t>("RSDT", tables));
  const Gpa xsdt_at = image.place(root_table<uint64_t>("XSDT", tables));
  const Bytes pointer = rsdp(rsdt_at, xsdt_at);
  std::copy(pointer.begin(), pointer.end(), image.bytes().begin());
  if (image.bytes().size() > layout::kAcpi.size) {
    return fail("ACPI tables: {} bytes for {} vCPUs, there is room for {}", image.bytes().size(),
                config.vcpus, layout::kAcpi.size);
  }
  return AcpiImage{base, std::move(image.bytes())};
}

}  // namespace trapeze::acpi
