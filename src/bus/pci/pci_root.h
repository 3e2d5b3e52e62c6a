// PciRoot: PCI Express root complex with one bus of 32 single-function devices; slot 0 is the host
// bridge. Configuration space is reached through ECAM (PCIe 5.0 §7.2.2) and through the ports 0xcf8
// and 0xcfc. There is no firmware: add() gives every BAR its address; the guest may move it.
//
// Threads: configuration accesses come from any vCPU thread. add() before the vCPUs run.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "arch/x86/layout.h"
#include "base/result.h"
#include "bus/board_bus.h"
#include "bus/pci/pci_device.h"

namespace trapeze {

struct PciRootConfig {
  GpaRange window32;  // layout::kPciMmio32
  GpaRange window64;  // layout::pci_mmio64(ram)
  // Port 0xcf9 lies inside the address register: byte accesses to it go here, at offset 0.
  IoDevice* reset_port = nullptr;
  // add() gives I/O BARs ports from here on.
  Port first_io_port = layout::kPciIoPorts;
};

struct PciRootState {
  uint32_t config_address = 0;
  bool operator==(const PciRootState&) const = default;
};

class PciRoot {
 public:
  static constexpr unsigned kSlots = 32;

  // Attaches ECAM and the configuration ports. `bus` and `sink` must outlive the root.
  static Result<std::unique_ptr<PciRoot>> create(const PciRootConfig& config, BoardBus& bus,
                                                 InterruptSink& sink);
  ~PciRoot();

  // Puts the device into the first free slot from 1 on and places its BARs; returns the slot.
  // `device` must outlive the root.
  Result<unsigned> add(PciDevice& device);
  // The same with a chosen slot.
  Result<void> add_at(unsigned slot, PciDevice& device);

  // Makes the memory bus agree with the BARs. After a restore of the devices.
  void place_bars();

  const InterruptSink& interrupts() const { return sink_; }

  PciRootState save() const;
  void restore(const PciRootState& state);

  // Configuration access to bus 0, up to a dword. All ones where nothing is.
  uint32_t config_read(unsigned slot, unsigned offset, Width width);
  void config_write(unsigned slot, unsigned offset, Width width, uint32_t value);

 private:
  struct Ecam final : IoDevice {
    uint64_t read(uint64_t offset, Width width) override;
    void write(uint64_t offset, Width width, uint64_t value) override;
    PciRoot* root = nullptr;
  };
  struct ConfigPorts final : IoDevice {
    uint64_t read(uint64_t offset, Width width) override;
    void write(uint64_t offset, Width width, uint64_t value) override;
    PciRoot* root = nullptr;
  };

  PciRoot(const PciRootConfig& config, BoardBus& bus, InterruptSink& sink);
  Result<void> assign_bars(PciDevice& device);
  Result<uint64_t> allocate(const PciDevice& device, const PciBarConfig& bar);
  bool may_decode(PciBarKind kind, const GpaRange& range) const;
  Result<void> attach(PciBarKind kind, const GpaRange& range, IoDevice& port, std::string name);
  void detach(PciBarKind kind, Gpa start);

  const PciRootConfig config_;
  BoardBus& bus_;
  InterruptSink& sink_;
  IntxWires intx_;
  Ecam ecam_;
  ConfigPorts ports_;
  std::unique_ptr<PciDevice> host_bridge_;
  std::array<PciDevice*, kSlots> devices_{};
  Gpa next32_;
  Gpa next64_;
  Gpa next_io_;
  std::atomic<uint32_t> config_address_{0};  // shared by vCPUs; guests lock around its use
  std::mutex place_mutex_;                   // BarPort::placed of all devices
};

}  // namespace trapeze
