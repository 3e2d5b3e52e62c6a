// A hostile guest at the legacy ports: any sequence of accesses to all devices at once, with time
// passing, timers running and terminal input in between. Nothing may crash, a state survives save
// and restore, and a deadline never lies in the past once its timer has run.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "base/units.h"
#include "device/buffered_sink.h"
#include "device/debug_exit.h"
#include "device/fakes.h"
#include "device/fw_cfg.h"
#include "device/i8042.h"
#include "device/pm.h"
#include "device/reset_ports.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/test_device.h"

namespace trapeze {
namespace {

struct NoInterrupts final : InterruptSink {
  void set_irq_level(Gsi, bool) override {}
  void send_msi(const MsiMessage&) override {}
};
struct NoPower final : PowerEvents, DebugExitEvents {
  void power_off() override {}
  void reset() override {}
  void debug_exit(uint32_t) override {}
};
struct NoSink final : ByteSink {
  void write(std::span<const uint8_t>) override {}
};

// A small machine of all legacy devices.
struct Machine {
  Machine() {
    clock.realtime_base_ns = uint64_t{1'700'000'000} * 1'000'000'000;
    PortBus& ports = bus.ports();
    attach(ports.attach(layout::kSerial, Serial::kPorts, serial, "serial"));
    attach(ports.attach(layout::kRtc, Rtc::kPorts, rtc, "rtc"));
    attach(ports.attach(Port{0x60}, 1, i8042.data_port(), "i8042 data"));
    attach(ports.attach(Port{0x64}, 1, i8042.command_port(), "i8042 command"));
    attach(ports.attach(layout::kPowerManagement, PowerManagement::kPorts, pm, "pm"));
    attach(ports.attach(layout::kDebugExit, DebugExit::kPorts, debug_exit, "debug exit"));
    attach(ports.attach(layout::kFwCfg, FwCfg::kPorts, fw_cfg, "fw_cfg"));
    attach(ports.attach(Port{0x92}, 1, port92, "port 92"));
    attach(ports.attach(Port{0x80}, 1, post_code, "POST code"));
    attach(test_device.attach_to(bus));
  }
  static void attach(const Result<void>& result) { CHECK(result.has_value()); }

  BoardBus bus;
  FakeClock clock;
  NoInterrupts interrupts;
  NoPower power;
  NoSink sink;
  FakeTimers timers;
  BufferedSink buffered{sink, clock, timers};
  Serial serial{IrqLine(interrupts, layout::kSerialGsi), buffered};
  Rtc rtc{{.ram_size_bytes = GiB, .vcpus = 1}, clock, IrqLine(interrupts, layout::kRtcGsi), timers};
  I8042 i8042{power};
  PowerManagement pm{clock, power};
  DebugExit debug_exit{power};
  FwCfg fw_cfg{{.ram_size_bytes = GiB, .vcpus = 1}};
  SystemControlA port92{power};
  PortLatch post_code;
  TestDevice test_device{interrupts, power};
};

template <typename Device>
void run_timer(Device& device, const Clock& clock) {
  device.run_timers();
  CHECK(device.next_deadline_ns().value_or(~uint64_t{0}) > clock.monotonic_ns());
}

struct Op {
  uint8_t kind = 0;
  uint8_t port = 0;
  uint32_t value = 0;
};

void run(Machine& machine, const Op& op) {
  // Places worth trying; the low bits of `port` move a little to the right of them.
  static constexpr std::array<uint16_t, 16> kPorts{0x3f8, 0x3fc, 0x70,   0x70,  0x60, 0x64,
                                                   0x600, 0x608, 0xf4,   0x510, 0x92, 0x80,
                                                   0xe0,  0xe8,  0x2000, 0x8900};
  const Port port{static_cast<uint16_t>(kPorts[op.port >> 4] + (op.port & 3))};
  const Width width = Width{static_cast<uint8_t>(1U << (op.kind >> 4) % 3)};
  switch (op.kind & 7) {
    case 0:
    case 1:
    case 2:
      return machine.bus.pio_write(port, width, op.value);
    case 3:
      machine.bus.pio_read(port, width);
      return;
    case 4:
      machine.clock.now_ns += op.value;
      return;
    case 5:
      machine.clock.now_ns += uint64_t{op.value} * 1'000'000;
      run_timer(machine.rtc, machine.clock);
      return run_timer(machine.buffered, machine.clock);
    case 6: {
      const std::array<uint8_t, 20> input{};
      machine.serial.receive(std::span(input).first(op.value % 21));
      return;
    }
    default:
      machine.bus.mmio_write(layout::kTestRamMmio.start + op.value % 0x10008, width, op.value);
      return;
  }
}

template <typename Device>
void check_restores(Device& device) {
  const auto state = device.save();
  device.restore(state);
  CHECK(device.save() == state);
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  Machine machine;
  for (; size >= 6; data += 6, size -= 6) {
    Op op{.kind = data[0], .port = data[1]};
    std::memcpy(&op.value, data + 2, 4);
    run(machine, op);
  }
  check_restores(machine.serial);
  check_restores(machine.rtc);
  check_restores(machine.i8042);
  check_restores(machine.pm);
  check_restores(machine.fw_cfg);
  return 0;
}
