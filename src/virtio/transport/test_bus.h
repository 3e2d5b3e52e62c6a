// A board with one virtio-pci device, as a guest's vCPU sees it; for tests and fuzzers.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "base/event_loop.h"
#include "bus/board_bus.h"
#include "bus/pci/fake_interrupts.h"
#include "bus/pci/pci_root.h"
#include "virtio/transport/pci.h"

namespace trapeze {

// Counts what arrives; waits for nobody. Any thread.
class TestInterrupts final : public InterruptSink {
 public:
  void set_irq_level(Gsi /*gsi*/, bool asserted) override {
    const std::lock_guard lock(mutex_);
    level_ = asserted;
  }
  void send_msi(const MsiMessage& message) override {
    const std::lock_guard lock(mutex_);
    // A fuzzer's guest may cause any number.
    if (messages_.size() < 1000) messages_.push_back(message.data);
  }
  std::unique_ptr<MsiEvent> create_msi_event() override {
    return events == nullptr ? nullptr : std::make_unique<FakeMsiEvent>(*events);
  }
  FakeMsiEvent::Log* events = nullptr;  // null: there are none
  bool bind_doorbell(const DoorbellPlace& place, const Fd& event) override {
    doorbells_in(place.space)[place.address] = event.get();
    return true;
  }
  void unbind_doorbell(const DoorbellPlace& place, const Fd& event) override {
    auto& there = doorbells_in(place.space);
    CHECK(there[place.address] == event.get());
    there.erase(place.address);
  }
  using Doorbells = std::map<uint64_t, int>;  // address to eventfd
  Doorbells& doorbells_in(DoorbellPlace::Space space) {
    return space == DoorbellPlace::Space::Ports ? port_doorbells : doorbells;
  }
  Doorbells doorbells;
  Doorbells port_doorbells;

  bool level() const {
    const std::lock_guard lock(mutex_);
    return level_;
  }
  std::vector<uint32_t> take_messages() {
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }

 private:
  mutable std::mutex mutex_;
  bool level_ = false;
  std::vector<uint32_t> messages_;
};

class TestBus {
 public:
  static constexpr unsigned kSlot = 1;

  TestBus(VirtioDevice& device, GuestMemory& memory, EventLoop& loop,
          VirtioPci::Doorbells doorbells = VirtioPci::Doorbells::Memory) {
    const PciRootConfig config{.window32 = {Gpa{0xc000'0000}, 0x1000'0000},
                               .window64 = {Gpa{0x1'0000'0000}, 0x1'0000'0000}};
    root_ = std::move(PciRoot::create(config, bus_, interrupts)).value();
    transport = std::move(VirtioPci::create("test", device, memory, loop, doorbells)).value();
    CHECK(root_->add_at(kSlot, *transport).has_value());
    // I/O space, memory space and bus mastering on.
    config_write(4, Width::Word, 7);
  }

  uint32_t config_read(unsigned offset, Width width) {
    return root_->config_read(kSlot, offset, width);
  }
  void config_write(unsigned offset, Width width, uint32_t value) {
    root_->config_write(kSlot, offset, width, value);
  }
  Gpa bar() { return Gpa{config_read(0x10, Width::Dword) & ~uint64_t{15}}; }
  uint64_t read(uint64_t offset, Width width) { return bus_.mmio_read(bar() + offset, width); }
  void write(uint64_t offset, Width width, uint64_t value) {
    bus_.mmio_write(bar() + offset, width, value);
  }
  void port_write(Port port, Width width, uint32_t value) { bus_.pio_write(port, width, value); }
  // Offset of the capability with `id` (and, for vendor-specific ones, cfg_type `type`), or 0.
  unsigned find_capability(uint8_t id, uint8_t type = 0) {
    unsigned at = config_read(0x34, Width::Byte);
    for (int i = 0; i < 48 && at != 0; ++i) {
      const bool is_type = type == 0 || config_read(at + 3, Width::Byte) == type;
      if (config_read(at, Width::Byte) == id && is_type) return at;
      at = config_read(at + 1, Width::Byte);
    }
    return 0;
  }

  TestInterrupts interrupts;
  std::unique_ptr<VirtioPci> transport;

 private:
  BoardBus bus_;
  std::unique_ptr<PciRoot> root_;  // destroyed before the device on it
};

}  // namespace trapeze
