#include "arch/x86/acpi/dsdt.h"

#include <array>

#include "arch/x86/acpi/aml.h"
#include "arch/x86/acpi/pci_interrupts.h"
#include "arch/x86/acpi/pm_registers.h"

namespace trapeze::acpi {
namespace {

// `range` without its last address + 1, as descriptors want it.
uint64_t last_of(const GpaRange& range) { return range.start.raw() + range.size - 1; }

aml::Bytes sleep_states() {
  const std::array<aml::Bytes, 4> s5{aml::integer(kSleepTypeS5), aml::integer(kSleepTypeS5),
                                     aml::integer(0), aml::integer(0)};
  return aml::name("\\_S5", aml::package(s5));
}

// Every pin of every slot, wired to the I/O APIC without a link device (§6.2.13).
aml::Bytes pci_routing() {
  constexpr unsigned kSlots = 32;
  constexpr unsigned kPins = 4;
  std::vector<aml::Bytes> routes;
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    for (unsigned pin = 0; pin < kPins; ++pin) {
      const std::array<aml::Bytes, 4> route{aml::integer(uint64_t{slot} << 16 | 0xffff),
                                            aml::integer(pin), aml::integer(0),
                                            aml::integer(pci_intx_gsi(slot, pin).raw())};
      routes.push_back(aml::package(route));
    }
  }
  return aml::name("_PRT", aml::package(routes));
}

// _OSC (§6.2.11.3): the guest may control every PCIe feature it asks for; there is no firmware that
// would. Bit 2 of the first dword: "unrecognized UUID".
aml::Bytes pci_capabilities() {
  const aml::Bytes wanted = aml::argument(0);
  const aml::Bytes buffer = aml::argument(3);
  return aml::method("_OSC", 4,
                     {aml::if_equal(wanted, aml::uuid("33db4d5b-1ff7-401c-9657-7441c03dd766"),
                                    {aml::give(buffer)}),
                      aml::otherwise({aml::create_dword_field(buffer, 0, "CDW1"),
                                      aml::or_into("CDW1", aml::integer(4)), aml::give(buffer)})});
}

aml::Bytes pci_root(const AcpiConfig& config) {
  constexpr GpaRange kLow = layout::kPciMmio32;
  const GpaRange high = layout::pci_mmio64(config.ram_size_bytes, config.pmem_bytes);
  const uint16_t config_ports = layout::kPciConfigAddress.raw();
  return aml::device(
      "PCI0",
      {aml::name("_HID", aml::eisa_id("PNP0A08")), aml::name("_CID", aml::eisa_id("PNP0A03")),
       aml::name("_SEG", aml::integer(0)), aml::name("_BBN", aml::integer(0)),
       aml::name("_UID", aml::integer(0)),
       aml::name("_CRS",
                 aml::resources({aml::bus_window(0, 0xff), aml::io_ports(config_ports, 8),
                                 aml::io_window(0, static_cast<uint16_t>(config_ports - 1)),
                                 aml::io_window(static_cast<uint16_t>(config_ports + 8), 0xffff),
                                 aml::memory_window32(static_cast<uint32_t>(kLow.start.raw()),
                                                      static_cast<uint32_t>(last_of(kLow))),
                                 aml::memory_window64(high.start.raw(), last_of(high))})),
       pci_routing(), pci_capabilities()});
}

aml::Bytes serial_port() {
  return aml::device(
      "COM1", {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(0)),
               aml::name("_STA", aml::integer(0xf)),
               aml::name("_CRS", aml::resources({aml::io_ports(layout::kSerial.raw(), 8),
                                                 aml::irq(layout::kSerialGsi.raw())}))});
}

aml::Bytes real_time_clock() {
  return aml::device("RTC", {aml::name("_HID", aml::eisa_id("PNP0B00")),
                             aml::name("_CRS", aml::resources({aml::io_ports(layout::kRtc.raw(), 2),
                                                               aml::irq(layout::kRtcGsi.raw())}))});
}

// What is taken and belongs to no other device: kernels trust ECAM only when it is reserved here
// (PCI Firmware 3.2 §4.1.2).
aml::Bytes motherboard(const AcpiConfig& config) {
  const aml::Bytes pm = aml::io_ports(layout::kPowerManagement.raw(), kPmPorts);
  const aml::Bytes ecam =
      config.has_pci ? aml::memory32_fixed(static_cast<uint32_t>(layout::kPciEcam.start.raw()),
                                           static_cast<uint32_t>(layout::kPciEcam.size))
                     : aml::Bytes{};
  return aml::device(
      "MBRD", {aml::name("_HID", aml::eisa_id("PNP0C02")), aml::name("_UID", aml::integer(0)),
               aml::name("_CRS", aml::resources({pm, ecam}))});
}

}  // namespace

std::vector<uint8_t> dsdt_aml(const AcpiConfig& config) {
  aml::Bytes out = sleep_states();
  const aml::Bytes none;
  const aml::Bytes devices = aml::scope(
      "\\_SB", {config.has_pci ? pci_root(config) : none, config.has_serial ? serial_port() : none,
                config.has_rtc ? real_time_clock() : none, motherboard(config)});
  out.insert(out.end(), devices.begin(), devices.end());
  return out;
}

}  // namespace trapeze::acpi
