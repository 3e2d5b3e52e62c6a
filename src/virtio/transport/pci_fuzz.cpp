// Any register and configuration accesses to a virtio-pci console, mixed with turns of its loop.
#include <memory>

#include "virtio/console/device.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"
#include "virtio/transport/test_bus.h"

namespace trapeze {
namespace {

struct NullPort final : ConsolePort {
  void attach(ConsoleGuest*) override {}
  size_t receive(std::span<const std::byte> bytes) override { return bytes.size(); }
  void on_guest_ready() override {}
  void on_guest_open(bool) override {}
};

constexpr std::array kWidths{Width::Byte, Width::Word, Width::Dword, Width::Qword};

// The registers that matter lie in the first bytes of each page.
uint64_t take_offset(FuzzInput& input) {
  const uint64_t page = input.below(8) * 4096;
  const uint64_t within = input.below(4) == 0 ? input.below(4096) : input.below(64);
  return page + within;
}

void turn(EventLoop& loop) {
  loop.post([&loop] { loop.stop(); });
  loop.run();
}

void start(TestBus& bus, GuestMemory& memory, FuzzInput& input) {
  const auto common = [&](uint64_t offset, Width width, uint64_t value) {
    bus.write(offset, width, value);
  };
  common(20, Width::Byte, 3);
  common(8, Width::Dword, 1);
  common(12, Width::Dword, 1);
  common(8, Width::Dword, 0);
  common(12, Width::Dword, input.take<uint8_t>() & 3U);
  common(20, Width::Byte, 11);
  for (uint16_t i = 0; i < 6; ++i) {
    const TestDriver driver(memory, 16, Gpa{i * 0x1000ULL});
    common(22, Width::Word, i);
    common(24, Width::Word, 16);
    common(32, Width::Qword, driver.config().desc.raw());
    common(40, Width::Qword, driver.config().avail.raw());
    common(48, Width::Qword, driver.config().used.raw());
    common(28, Width::Word, 1);
  }
  common(20, Width::Byte, 15);
}

void step(TestBus& bus, GuestMemory& memory, EventLoop& loop, FuzzInput& input) {
  const Width width = kWidths[input.below(4)];
  const Width config_width = kWidths[input.below(3)];
  const unsigned config_offset = input.below(256) & ~(bytes_of(config_width) - 1);
  switch (input.below(8)) {
    case 0:
      (void)bus.read(take_offset(input), width);
      break;
    case 1:
    case 2:
      bus.write(take_offset(input), width, input.take<uint64_t>());
      break;
    case 3:
      (void)bus.config_read(config_offset, config_width);
      break;
    case 4:
      bus.config_write(config_offset, config_width, input.take<uint32_t>());
      bus.config_write(4, Width::Word, 6);  // keep it reachable
      break;
    case 5:
      memory.write(Gpa{input.below(0x6000)}, std::as_bytes(input.take_bytes(input.below(64))));
      break;
    case 6:
      bus.write(VirtioPci::doorbell_offset(static_cast<uint16_t>(input.below(8))), width, 0);
      turn(loop);
      break;
    default:
      start(bus, memory, input);
      break;
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  static const std::unique_ptr<GuestMemory> memory = make_test_memory();
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FuzzInput input(data, size);
  NullPort tty;
  NullPort agent;
  ConsoleDevice device(ConsoleConfig{.ports = {{"tty", true, &tty}, {"agent", false, &agent}}});
  TestBus bus(device, *memory, *loop);
  for (int i = 0; i < 100 && !input.is_empty(); ++i) step(bus, *memory, *loop, input);
  const VirtioPciState state = bus.transport->save_state();
  CHECK(bus.transport->restore_state(state).has_value());
  return 0;
}
