// Delivery from other threads into a running vCPU: nothing may be lost. Run with the tsan preset.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "irq/chip/apic_bus.h"
#include "irq/chip/lapic_test_support.h"

namespace trapeze {
namespace {

using namespace apic_reg;

constexpr uint64_t kRounds = 20'000;

// A vCPU that sleeps until woken, as the engine's HLT does.
class SleepyHost final : public LapicHost {
 public:
  void send_ipi(const ApicMessage&) override {}
  void wake() override {
    const std::lock_guard lock(mutex_);
    awake_ = true;
    condition_.notify_one();
  }
  void timer_changed(std::optional<uint64_t>) override {}
  void broadcast_eoi(uint8_t) override {}
  uint64_t tsc_to_ns(uint64_t tsc) override { return tsc; }
  void sleep() {
    std::unique_lock lock(mutex_);
    condition_.wait(lock, [this] { return awake_; });
    awake_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool awake_ = false;
};

struct Vcpu {
  Vcpu() { lapic.mmio_write(kSpurious, 0x1ff); }
  FakeClock clock;
  SleepyHost host;
  Lapic lapic{{.id = VcpuId(0)}, clock, host};
};

TEST(LapicThreads, every_vector_of_every_sender_arrives) {
  Vcpu vcpu;
  ApicBus bus;
  bus.add(vcpu.lapic);
  // Each sender owns a vector and sends again only when the last one was taken: a lost interrupt
  // would hang (and the test time out), a doubled one would break the count.
  constexpr unsigned kSenders = 4;
  std::array<std::atomic<uint64_t>, kSenders> taken{};
  std::vector<std::thread> senders;
  for (unsigned i = 0; i < kSenders; ++i) {
    senders.emplace_back([&, i] {
      const auto vector = static_cast<uint8_t>(0x30 + 0x22 * i);
      for (uint64_t round = 0; round < kRounds; ++round) {
        while (taken[i].load(std::memory_order_acquire) != round) std::this_thread::yield();
        bus.send({.vector = vector, .level_triggered = (i & 1U) != 0, .destination = 0});
      }
    });
  }
  uint64_t left = kSenders * kRounds;
  while (left > 0) {
    if (!vcpu.lapic.pending_vector()) {
      vcpu.host.sleep();
      continue;
    }
    const uint8_t vector = vcpu.lapic.accept();
    vcpu.lapic.mmio_write(kEoi, 0);
    taken[(vector - 0x30U) / 0x22U].fetch_add(1, std::memory_order_release);
    --left;
  }
  for (std::thread& sender : senders) sender.join();
  for (const auto& count : taken) EXPECT_EQ(count, kRounds);
  EXPECT_FALSE(vcpu.lapic.has_attention());
}

TEST(LapicThreads, every_nmi_and_sipi_arrives) {
  Vcpu vcpu;
  std::atomic<uint64_t> nmis{0}, sipis{0};
  std::thread nmi_sender([&] {
    for (uint64_t round = 0; round < kRounds; ++round) {
      while (nmis.load(std::memory_order_acquire) != round) std::this_thread::yield();
      vcpu.lapic.deliver({.mode = DeliveryMode::Nmi});
    }
  });
  std::thread sipi_sender([&] {
    for (uint64_t round = 0; round < kRounds; ++round) {
      while (sipis.load(std::memory_order_acquire) != round) std::this_thread::yield();
      vcpu.lapic.deliver({.mode = DeliveryMode::StartUp, .vector = static_cast<uint8_t>(round)});
    }
  });
  while (nmis < kRounds || sipis < kRounds) {
    if (!vcpu.lapic.has_attention()) vcpu.host.sleep();
    if (vcpu.lapic.take_nmi()) nmis.fetch_add(1, std::memory_order_release);
    const std::optional<uint8_t> sipi = vcpu.lapic.take_sipi();
    if (!sipi) continue;
    EXPECT_EQ(*sipi, static_cast<uint8_t>(sipis.load()));
    sipis.fetch_add(1, std::memory_order_release);
  }
  nmi_sender.join();
  sipi_sender.join();
  EXPECT_FALSE(vcpu.lapic.has_attention());
}

// The wire and the LVT entry change at once: the last state of both decides.
TEST(LapicThreads, lint0_and_its_entry_agree_in_the_end) {
  Vcpu vcpu;
  constexpr uint32_t kExtInt = 7U << kLvtModeShift;
  for (int round = 0; round < 300; ++round) {
    std::thread wire([&] {
      for (int i = 0; i < 20; ++i) {
        vcpu.lapic.set_lint0(false);
        vcpu.lapic.set_lint0(true);
      }
    });
    for (int i = 0; i < 20; ++i) {
      vcpu.lapic.mmio_write(kLvtLint0, kExtInt | kLvtMasked);
      vcpu.lapic.mmio_write(kLvtLint0, kExtInt);
    }
    wire.join();
    ASSERT_TRUE(vcpu.lapic.has_attention());
    ASSERT_TRUE(vcpu.lapic.extint_pending());
  }
}

// Two CPUs that hammer each other by IPI while one resets: no crash, no race, nothing stuck.
TEST(LapicThreads, delivery_into_a_reset_is_harmless) {
  Vcpu vcpu;
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    for (uint32_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      vcpu.lapic.deliver({.vector = static_cast<uint8_t>(i), .level_triggered = (i & 1U) != 0});
      if (i % 64 == 0) vcpu.lapic.deliver({.mode = DeliveryMode::Nmi});
    }
  });
  for (int i = 0; i < 2000; ++i) {
    vcpu.lapic.init_reset();
    vcpu.lapic.mmio_write(kSpurious, 0x1ff);
    while (vcpu.lapic.pending_vector()) {
      vcpu.lapic.accept();
      vcpu.lapic.mmio_write(kEoi, 0);
      if (i % 8 == 0) break;
    }
  }
  stop = true;
  sender.join();
  vcpu.lapic.init_reset();
  EXPECT_FALSE(vcpu.lapic.has_attention());
}

}  // namespace
}  // namespace trapeze
