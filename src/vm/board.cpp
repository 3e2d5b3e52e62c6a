#include "vm/board.h"

#include "arch/x86/layout.h"

namespace trapeze {
namespace {

constexpr Port kSystemControlA{0x92};
constexpr Port kPostCode{0x80};  // Linux' io_delay
constexpr Port kDelay{0xed};     // the same with io_delay=0xed

}  // namespace

Board::Board(const VmConfig& config, const BoardWiring& wiring)
    : serial_sink_(wiring.serial_output, wiring.clock, wiring.timers),
      serial_(IrqLine(wiring.interrupts, layout::kSerialGsi), serial_sink_),
      rtc_({.ram_size_bytes = config.memory_bytes, .vcpus = config.vcpus}, wiring.clock,
           IrqLine(wiring.interrupts, layout::kRtcGsi), wiring.timers),
      i8042_(wiring.power),
      pm_(wiring.clock, wiring.power),
      system_control_(wiring.power),
      reset_control_(wiring.power),
      debug_exit_(wiring.debug_exit),
      fw_cfg_({.ram_size_bytes = config.memory_bytes, .vcpus = config.vcpus}),
      test_device_(wiring.interrupts, wiring.power) {
  wiring.timers.add(serial_sink_);
  wiring.timers.add(rtc_);
}

Result<std::unique_ptr<Board>> Board::create(const VmConfig& config, const BoardWiring& wiring) {
  std::unique_ptr<Board> board(new Board(config, wiring));
  TRY(board->attach_legacy());
  board->pci_ =
      TRY(PciRoot::create({.window32 = layout::kPciMmio32,
                           .window64 = layout::pci_mmio64(config.memory_bytes, wiring.pmem_bytes),
                           .reset_port = &board->reset_control_},
                          board->bus_, wiring.interrupts));
  TRY(board->attach_test_devices(config));
  return board;
}

Result<void> Board::attach_legacy() {
  PortBus& ports = bus_.ports();
  TRY(ports.attach(layout::kSerial, Serial::kPorts, serial_, "serial port"));
  TRY(ports.attach(layout::kRtc, Rtc::kPorts, rtc_, "real-time clock"));
  TRY(ports.attach(layout::kI8042, 1, i8042_.data_port(), "keyboard controller data"));
  TRY(ports.attach(Port(layout::kI8042.raw() + 4), 1, i8042_.command_port(),
                   "keyboard controller command"));
  TRY(ports.attach(layout::kPowerManagement, PowerManagement::kPorts, pm_, "power management"));
  TRY(ports.attach(kSystemControlA, 1, system_control_, "system control port A"));
  TRY(ports.attach(kPostCode, 1, post_code_, "POST code"));
  return ports.attach(kDelay, 1, delay_port_, "I/O delay");
}

Result<void> Board::attach_test_devices(const VmConfig& config) {
  if (config.debug_exit || config.test_devices) {
    TRY(bus_.ports().attach(layout::kDebugExit, DebugExit::kPorts, debug_exit_, "debug exit"));
  }
  if (!config.test_devices) return {};
  TRY(bus_.ports().attach(layout::kFwCfg, FwCfg::kPorts, fw_cfg_, "firmware configuration"));
  return test_device_.attach_to(bus_);
}

}  // namespace trapeze
