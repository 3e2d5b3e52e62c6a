// PciDevice: base of every PCI function. It owns the configuration space, the MSI-X table and the
// INTx pin; the device implements what is behind its BARs.
//
// Threads: configuration accesses and BAR accesses come from vCPU threads, several at once;
// interrupts are raised from any thread. The virtual functions are called with no lock held, so a
// device locks its own state; it may raise interrupts while it holds that lock.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "bus/io_device.h"
#include "bus/pci/config_space.h"
#include "bus/pci/intx.h"
#include "bus/pci/msix.h"

namespace trapeze {

struct PciDeviceState {
  PciConfigSpace::Bytes config{};
  MsixState msix;  // empty when the device has no MSI-X
  bool intx_asserted = false;
  bool operator==(const PciDeviceState&) const = default;
};

class PciDevice {
 public:
  explicit PciDevice(const PciDeviceConfig& config);
  virtual ~PciDevice() = default;
  PciDevice(const PciDevice&) = delete;
  PciDevice& operator=(const PciDevice&) = delete;

  // BAR accesses, without those to the MSI-X table and pending bits. `offset` lies within the BAR;
  // any width and alignment.
  virtual uint64_t bar_read(unsigned bar, uint64_t offset, Width width) = 0;
  virtual void bar_write(unsigned bar, uint64_t offset, Width width, uint64_t value) = 0;

  // Accesses to the window of a capability (PciCapability). `capability` is a copy of the whole
  // capability as it stands, from its id byte; `offset` counts from the start of the window; the
  // access is naturally aligned, 1 to 4 bytes.
  virtual uint32_t window_read(std::span<const uint8_t> /*capability*/, unsigned /*offset*/,
                               Width /*width*/) {
    return 0;
  }
  virtual void window_write(std::span<const uint8_t> /*capability*/, unsigned /*offset*/,
                            Width /*width*/, uint32_t /*value*/) {}

  // The BAR now answers at `address` (an I/O BAR: that port), or nowhere. For doorbells that the
  // kernel watches (ioeventfd). Called with PciRoot's lock held: do not access configuration space
  // from here.
  virtual void bar_placed(unsigned /*bar*/, std::optional<Gpa> /*address*/) {}

  // Events that Msix has lent are void: whoever has one calls notify(), also for what it may have
  // lost. On a vCPU's thread.
  virtual void msix_recalled() {}

  const std::string& name() const { return name_; }
  PciDeviceState save() const;
  // PciRoot::place_bars() must follow. Fails when the state is of another kind of device.
  Result<void> restore(const PciDeviceState& state);

 protected:
  // Null when the configuration asked for no MSI-X. Valid from the constructor on.
  Msix* msix() { return msix_.get(); }
  // Level of pin INTA#. Does nothing while MSI-X is enabled or the guest has disabled INTx; the
  // level is remembered.
  void set_intx(bool asserted);
  // A device must not access guest memory while this is false (PCI 3.0 §6.2.2).
  bool bus_master_enabled() const;
  // Null until the device is on a bus. Constant afterwards.
  InterruptSink* interrupts() { return interrupts_; }

 private:
  friend class PciRoot;

  // One BAR on the memory bus.
  struct BarPort final : IoDevice {
    uint64_t read(uint64_t offset, Width width) override {
      return owner->route_read(index, offset, width);
    }
    void write(uint64_t offset, Width width, uint64_t value) override {
      owner->route_write(index, offset, width, value);
    }
    PciDevice* owner = nullptr;
    unsigned index = 0;
    std::optional<Gpa> placed;  // where the bus has it; guarded by PciRoot
  };

  void connect(InterruptSink& sink, IntxPin pin, Gsi gsi);
  void disconnect();
  uint32_t config_read(unsigned offset, Width width);
  // True when BARs may have to move.
  bool config_write(unsigned offset, Width width, uint32_t value);
  // Where the guest wants the BAR, in its space; nothing when it is not decoded.
  std::optional<GpaRange> wanted_range(unsigned bar) const;
  uint64_t route_read(unsigned bar, uint64_t offset, Width width);
  void route_write(unsigned bar, uint64_t offset, Width width, uint64_t value);
  void update_intx();

  const std::string name_;
  const std::optional<PciMsixConfig> msix_config_;
  std::unique_ptr<Msix> msix_;
  InterruptSink* interrupts_ = nullptr;
  std::array<BarPort, 6> ports_;

  mutable std::mutex mutex_;  // config_, pin_ and intx_asserted_
  PciConfigSpace config_;
  IntxPin pin_;
  bool intx_asserted_ = false;
};

}  // namespace trapeze
