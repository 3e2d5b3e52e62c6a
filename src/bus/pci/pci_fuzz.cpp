// A hostile guest at the PCI bus: any sequence of configuration, ECAM, port and BAR accesses, with
// interrupts from the device in between. Nothing may crash, and BARs stay inside their windows.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/units.h"
#include "bus/pci/fake_interrupts.h"
#include "bus/pci/pci_root.h"

namespace trapeze {
namespace {

struct NoInterrupts final : InterruptSink {
  void set_irq_level(Gsi, bool) override {}
  void send_msi(const MsiMessage&) override {}
  std::unique_ptr<MsiEvent> create_msi_event() override {
    return std::make_unique<FakeMsiEvent>(log);
  }
  FakeMsiEvent::Log log;
};

constexpr GpaRange kWindow64{Gpa{4 * GiB}, 16 * GiB};

PciDeviceConfig config() {
  PciDeviceConfig card{
      .name = "fuzzed",
      .vendor_id = 0x1af4,
      .device_id = 0x1041,
      .msix = PciMsixConfig{.vectors = 33, .bar = 1, .table_offset = 0, .pending_offset = 0x800},
      .capabilities = {},
      .has_intx = true};
  card.bars[0] = {PciBarKind::Memory32, false, 16};
  card.bars[1] = {PciBarKind::Memory32, false, 4 * KiB};
  card.bars[2] = {PciBarKind::Io, false, 64};
  card.bars[4] = {PciBarKind::Memory64, true, 64 * MiB};
  card.capabilities.push_back({.id = kPciCapVendorSpecific,
                               .bytes = std::vector<uint8_t>(20),
                               .write_mask = std::vector<uint8_t>(16, 0xff),
                               .window_offset = 16,
                               .window_bytes = 4});
  return card;
}

struct Card final : PciDevice {
  Card() : PciDevice(config()) {}
  uint64_t bar_read(unsigned bar, uint64_t offset, Width width) override {
    check(bar, offset, width);
    return offset;
  }
  void bar_write(unsigned bar, uint64_t offset, Width width, uint64_t) override {
    check(bar, offset, width);
  }
  uint32_t window_read(std::span<const uint8_t> capability, unsigned offset, Width width) override {
    CHECK(capability.size() == 20 && offset + bytes_of(width) <= 4);
    return capability[4];
  }
  void window_write(std::span<const uint8_t> capability, unsigned offset, Width width,
                    uint32_t) override {
    CHECK(capability.size() == 20 && offset + bytes_of(width) <= 4);
  }
  void bar_placed(unsigned bar, std::optional<Gpa> address) override {
    if (!address) return;
    const uint64_t size = sizes[bar];
    if (bar == 2) {
      CHECK(address->raw() >= 0xd00 && address->raw() + size <= 0x10000);
      return;
    }
    CHECK(layout::kPciMmio32.contains(*address, size) || kWindow64.contains(*address, size));
  }
  void interrupt(uint8_t vector) {
    if ((vector & 2) != 0) {
      msix()->lend(vector);
    } else {
      msix()->notify(vector);
    }
    set_intx((vector & 1) != 0);
  }
  void check(unsigned bar, uint64_t offset, Width width) const {
    CHECK(bar < 6 && offset + bytes_of(width) <= sizes[bar]);
  }
  static constexpr std::array<uint64_t, 6> sizes{16, 4 * KiB, 64, 0, 64 * MiB, 0};
};

struct Op {
  uint8_t kind;
  uint8_t width;
  uint16_t offset;
  uint64_t value;
};

void run(BoardBus& bus, PciRoot& root, Card& card, const Op& op) {
  const Width width = Width{static_cast<uint8_t>(1U << (op.width % 4))};
  const Width small = Width{static_cast<uint8_t>(1U << (op.width % 3))};
  const Port port{static_cast<uint16_t>(0xcf8 + op.offset % 8)};
  const Gpa ecam = layout::kPciEcam.start + (0x8000 + op.offset % 0x1100);
  const uint64_t bar = root.config_read(1, 0x14, Width::Dword) & ~0xfU;
  switch (op.kind % 8) {
    case 0:
      return bus.pio_write(port, small, static_cast<uint32_t>(op.value));
    case 1:
      bus.pio_read(port, small);
      return;
    case 2:
      return bus.mmio_write(ecam, width, op.value);
    case 3:
      bus.mmio_read(ecam, width);
      return;
    case 4:
      return bus.mmio_write(Gpa{bar} + op.offset % 0x1010, width, op.value);
    case 5:
      bus.mmio_read(Gpa{bar} + op.offset % 0x1010, width);
      return;
    case 6:
      return bus.mmio_write(Gpa{op.value}, width, op.value);
    default:
      return card.interrupt(static_cast<uint8_t>(op.value));
  }
}

}  // namespace
}  // namespace trapeze

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace trapeze;
  BoardBus bus;
  NoInterrupts sink;
  Card card;
  auto root = PciRoot::create({layout::kPciMmio32, kWindow64, nullptr}, bus, sink);
  CHECK(root.has_value());
  CHECK((*root)->add_at(1, card).has_value());
  for (; size >= 12; data += 12, size -= 12) {
    Op op{data[0], data[1], 0, 0};
    std::memcpy(&op.offset, data + 2, 2);
    std::memcpy(&op.value, data + 4, 8);
    run(bus, **root, card, op);
  }
  const PciDeviceState state = card.save();
  CHECK(card.restore(state).has_value());
  (*root)->place_bars();
  CHECK(card.save() == state);
  return 0;
}
