// FuzzRings: the guest's side of a device under a fuzzer: rings at known places in a small RAM,
// where the input may write anything. For fuzzers only.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "virtio/device.h"
#include "virtio/queue/fuzz_input.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {

class FuzzRings {
 public:
  static constexpr uint64_t kRamBytes = 128 * KiB;
  static constexpr uint64_t kQueueStride = 4 * KiB;
  static constexpr uint16_t kRingSize = 16;
  static constexpr Gpa kData{64 * KiB};  // behind all rings
  static_assert(kData.raw() / kQueueStride >= 16, "as many queues");

  // The same for all runs: making it anew would take most of the time.
  static GuestMemory& ram() {
    static const std::unique_ptr<GuestMemory> memory = [] {
      set_log_level(LogLevel::Error);
      const std::array<GpaRange, 1> ranges{GpaRange{Gpa{0}, kRamBytes}};
      return std::move(GuestMemory::create(ranges)).value();
    }();
    return *memory;
  }

  explicit FuzzRings(uint16_t queues) : queues_(queues) {}

  GuestMemory& memory() { return ram(); }
  uint16_t queues() const { return queues_; }

  // Fresh memory, and the device with all its queues. `doorbell`: for a device that hands rings on.
  void start(VirtioDevice& device, uint64_t features, QueueFeatures queue_features,
             std::function<const Fd&(uint16_t)> doorbell = {}) {
    CHECK(ram().fill(Gpa{0}, std::byte{0}, kRamBytes));
    active_.emplace(ActiveState{ram(), interrupt_, features, [](uint16_t) {}, {}});
    active_->take_doorbell = std::move(doorbell);
    active_->queues.reserve(queues_);
    for (uint16_t i = 0; i < queues_; ++i) {
      const TestDriver layout(ram(), kRingSize, Gpa{i * kQueueStride}, queue_features);
      active_->queues.emplace_back(std::in_place, ram());
      (void)active_->queue(i)->configure(layout.config(), queue_features, 1024);
    }
    device.activate(*active_);
  }

  // Descriptor `index`, which goes on with the next one where `flags` say so.
  void set_descriptor(uint16_t queue, unsigned index, Gpa at, uint32_t len, uint32_t flags) {
    ram().store(rings(queue).desc + index * 16,
                split_ring::Descriptor{at.raw(), len, static_cast<uint16_t>(flags),
                                       static_cast<uint16_t>(index + 1)});
  }
  // Makes the chain that begins with `head` available.
  void offer(uint16_t queue, unsigned head) {
    const QueueConfig config = rings(queue);
    const uint16_t idx = ram().load<uint16_t>(config.avail + 2).value_or(0);
    ram().store(config.avail + 4 + (idx % kRingSize) * uint64_t{2}, static_cast<uint16_t>(head));
    ram().store(config.avail + 2, static_cast<uint16_t>(idx + 1));
  }
  // As a loop does: again while the device has more to do, but not for ever.
  static void kick(VirtioDevice& device, uint16_t queue) {
    for (int turn = 0; turn < 4 && device.on_kick(queue); ++turn) {
    }
  }
  // As a vCPU does.
  static void ring(VirtioDevice& device, uint16_t queue) {
    if (!device.takes_vcpu_kicks(queue) || !device.on_vcpu_kick(queue)) kick(device, queue);
  }
  // Anything anywhere in the rings.
  void scribble(FuzzInput& input) {
    ram().write(Gpa{input.below(static_cast<uint32_t>(queues_ * kQueueStride))},
                std::as_bytes(input.take_bytes(input.below(64))));
  }
  static void use_config(VirtioDevice& device, FuzzInput& input) {
    const uint32_t offset = input.below(device.config_bytes());
    std::array<std::byte, 8> bytes{};
    const size_t size = std::min<size_t>(bytes.size(), device.config_bytes() - offset);
    device.write_config(offset, std::span(bytes).first(size));
    device.read_config(offset, std::span(bytes).first(size));
  }

 private:
  class Interrupt final : public DeviceInterrupt {
   public:
    explicit Interrupt(uint16_t queues) : queues_(queues) {}
    void queue_used(uint16_t queue) override { CHECK(queue < queues_); }
    void config_changed() override {}
    void needs_reset() override {}

   private:
    const uint16_t queues_;
  };

  QueueConfig rings(uint16_t queue) { return active_->queue(queue)->save().config; }

  const uint16_t queues_;
  Interrupt interrupt_{queues_};
  std::optional<ActiveState> active_;
};

// Some lives of a device, each of some steps: all of LLVMFuzzerTestOneInput(). `Guest` has `rings`,
// `device`, start() and step(FuzzInput&), and is made of `others` and the input.
template <typename Guest, typename... Others>
int fuzz_device(const uint8_t* data, size_t size, Others&... others) {
  FuzzInput input(data, size);
  Guest guest(others..., input);
  for (int round = 0; round < 3 && !input.is_empty(); ++round) {
    guest.start();
    for (int i = 0; i < 100 && !input.is_empty(); ++i) guest.step(input);
    guest.device.reset();
  }
  return 0;
}

}  // namespace trapeze
