// Board: the devices that every VM has, whatever the accelerator, at the addresses of
// arch/x86/layout.h. Local APICs, I/O APIC, 8259 and 8254 belong to the accelerator.
//
// Built before the vCPUs run, destroyed after them; devices lock themselves in between.
#pragma once

#include <memory>
#include <optional>

#include "base/clock.h"
#include "bus/board_bus.h"
#include "bus/pci/pci_root.h"
#include "device/buffered_sink.h"
#include "device/debug_exit.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/pm.h"
#include "device/reset_ports.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/test_device.h"
#include "vm/config.h"
#include "vm/device_timers.h"

namespace trapeze {

// What the board is wired to; all of it outlives the board.
struct BoardWiring {
  InterruptSink& interrupts;
  const Clock& clock;
  DeviceTimers& timers;
  PowerEvents& power;
  DebugExitEvents& debug_exit;
  ByteSink& serial_output;
  uint64_t pmem_bytes = 0;  // above RAM, below the PCI window
};

class Board {
 public:
  static Result<std::unique_ptr<Board>> create(const VmConfig& config, const BoardWiring& wiring);

  BoardBus& bus() { return bus_; }
  PciRoot& pci() { return *pci_; }
  Serial& serial() { return serial_; }
  void flush_serial() { serial_sink_.flush(); }

 private:
  Board(const VmConfig& config, const BoardWiring& wiring);
  Result<void> attach_legacy();
  Result<void> attach_test_devices(const VmConfig& config);

  BoardBus bus_;
  BufferedSink serial_sink_;
  Serial serial_;
  Rtc rtc_;
  I8042 i8042_;
  PowerManagement pm_;
  SystemControlA system_control_;
  ResetControl reset_control_;
  PortLatch post_code_;
  PortLatch delay_port_;
  DebugExit debug_exit_;
  FwCfg fw_cfg_;
  TestDevice test_device_;
  std::unique_ptr<PciRoot> pci_;
};

}  // namespace trapeze
