#include "virtio/transport/pci.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "virtio/queue/test_driver.h"
#include "virtio/transport/test_bus.h"

namespace trapeze {
namespace {

using virtio_pci::CommonConfig;
using Buffer = TestDriver::Buffer;

constexpr uint64_t kOwnFeature = feature_bit(5);

// Gives every buffer back at once, and says when the configuration changed.
class EchoDevice final : public VirtioDevice {
 public:
  VirtioType type() const override { return VirtioType::Block; }
  uint64_t offered_features() const override { return kOwnFeature; }
  std::span<const uint16_t> queue_max_sizes() const override { return kSizes; }
  uint32_t config_bytes() const override { return 6; }
  void read_config(uint32_t offset, std::span<std::byte> to) override {
    std::memcpy(to.data(), config.data() + offset, to.size());
  }
  void write_config(uint32_t offset, std::span<const std::byte> from) override {
    std::memcpy(config.data() + offset, from.data(), from.size());
  }
  void activate(ActiveState& state) override {
    active = &state;
    ++activations;
  }
  bool on_kick(uint16_t index) override {
    VirtQueue* queue = active->queue(index);
    const bool has_more = serve(*queue, chain_, 4, [&](Chain& chain) {
      queue->push_used(chain, chain.writable_bytes());
      ++echoed;
      return true;
    });
    active->notify_used(index);
    return has_more;
  }
  bool takes_vcpu_kicks(uint16_t queue) const override { return queue == vcpu_queue; }
  void interrupts_moved() override { ++moves; }
  void reset() override {
    active = nullptr;
    ++resets;
  }

  std::array<uint8_t, 6> config{1, 2, 3, 4, 5, 6};
  ActiveState* active = nullptr;
  int activations = 0;
  int resets = 0;
  int echoed = 0;
  int moves = 0;
  std::optional<uint16_t> vcpu_queue;

 private:
  static constexpr std::array<uint16_t, 2> kSizes{64, 16};
  Chain chain_;
};

// Without a running loop: DeviceHost::reset() and save_queues() run the loop's tasks on the caller,
// run_loop() lets the doorbells through.
struct PciTest : ::testing::Test {
  uint64_t get(size_t offset, Width width) { return bus.read(offset, width); }
  void set_common(size_t offset, Width width, uint64_t value) { bus.write(offset, width, value); }
  uint8_t status() {
    return static_cast<uint8_t>(bus.read(offsetof(CommonConfig, device_status), Width::Byte));
  }
  void set_status(uint8_t value) {
    bus.write(offsetof(CommonConfig, device_status), Width::Byte, value);
  }
  void set_features(uint64_t features) {
    for (uint32_t half = 0; half < 2; ++half) {
      set_common(offsetof(CommonConfig, driver_feature_select), Width::Dword, half);
      set_common(offsetof(CommonConfig, driver_feature), Width::Dword, features >> (32 * half));
    }
  }
  void set_queue(uint16_t index, const QueueConfig& config) {
    set_common(offsetof(CommonConfig, queue_select), Width::Word, index);
    set_common(offsetof(CommonConfig, queue_size), Width::Word, config.size);
    const Gpa addresses[] = {config.desc, config.avail, config.used};
    for (size_t i = 0; i < 3; ++i) {
      const size_t at = offsetof(CommonConfig, queue_desc_lo) + 8 * i;
      set_common(at, Width::Dword, addresses[i].raw() & 0xffff'ffff);
      set_common(at + 4, Width::Dword, addresses[i].raw() >> 32);
    }
    set_common(offsetof(CommonConfig, queue_enable), Width::Word, 1);
  }
  void set_vector(uint16_t queue, uint16_t vector) {
    set_common(offsetof(CommonConfig, queue_select), Width::Word, queue);
    set_common(offsetof(CommonConfig, queue_msix_vector), Width::Word, vector);
  }
  void negotiate(uint64_t features = kFeatureVersion1) {
    set_status(0);
    set_status(kStatusAcknowledge);
    set_status(kStatusAcknowledge | kStatusDriver);
    set_features(features);
    set_status(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
  }
  void start() {
    negotiate();
    set_queue(0, driver.config());
    set_status(0xf);
    run_loop();
  }
  void enable_msix() {
    const unsigned capability = bus.find_capability(kPciCapMsix);
    bus.config_write(capability + 2, Width::Word, 0x8000);
    for (uint32_t vector = 0; vector < 3; ++vector) {
      const uint64_t entry = virtio_pci::kMsixTableOffset + vector * 16;
      bus.write(entry, Width::Dword, 0xfee0'0000);
      bus.write(entry + 8, Width::Dword, 40 + vector);
      bus.write(entry + 12, Width::Dword, 0);
    }
  }
  void kick(uint16_t queue) { bus.write(VirtioPci::doorbell_offset(queue), Width::Word, queue); }
  // Turns enough for an activation, its doorbells, and a device that asks to be called again.
  void run_loop() {
    for (int turn = 0; turn < 8; ++turn) {
      loop->post([this] { loop->stop(); });
      loop->run();
    }
  }
  uint8_t isr() { return static_cast<uint8_t>(bus.read(virtio_pci::kIsrOffset, Width::Byte)); }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  EchoDevice device;
  TestDriver driver{*memory, 16, Gpa{0x1000}};
  TestBus bus{device, *memory, *loop};
};

TEST_F(PciTest, doorbells_are_bound_where_the_bar_is_and_follow_it) {
  const auto expected = [&](Gpa bar) {
    std::map<uint64_t, int> doorbells;
    for (uint16_t queue = 0; queue < 2; ++queue) {
      doorbells[(bar + VirtioPci::doorbell_offset(queue)).raw()] =
          bus.transport->doorbell(queue).get();
    }
    return doorbells;
  };
  EXPECT_EQ(bus.interrupts.doorbells, expected(bus.bar()));
  bus.config_write(0x10, Width::Dword, 0xc080'0000);
  EXPECT_EQ(bus.interrupts.doorbells, expected(Gpa{0xc080'0000}));
  bus.config_write(4, Width::Word, 0);  // memory space off
  EXPECT_TRUE(bus.interrupts.doorbells.empty());
}

// The kernel must not take kicks that a vCPU may serve itself.
TEST_F(PciTest, doorbell_of_a_queue_for_vcpus_is_not_bound) {
  device.vcpu_queue = 1;
  TestBus other_bus{device, *memory, *loop};
  const std::map<uint64_t, int> first_only{{other_bus.bar().raw() + VirtioPci::doorbell_offset(0),
                                            other_bus.transport->doorbell(0).get()}};
  EXPECT_EQ(other_bus.interrupts.doorbells, first_only);
  other_bus.config_write(4, Width::Word, 0);
  EXPECT_TRUE(other_bus.interrupts.doorbells.empty());
}

struct PortTest : PciTest {
  uint16_t port() const {
    return static_cast<uint16_t>(port_bus.config_read(0x18, Width::Dword) & ~1U);
  }
  EchoDevice port_device;
  mutable TestBus port_bus{port_device, *memory, *loop, VirtioPci::Doorbells::Ports};
};

TEST_F(PortTest, doorbells_at_ports_are_bound_and_follow_the_bar) {
  const auto expected = [&](uint16_t first) {
    return std::map<uint64_t, int>{{first, port_bus.transport->doorbell(0).get()},
                                   {first + uint64_t{4}, port_bus.transport->doorbell(1).get()}};
  };
  EXPECT_EQ(port_bus.interrupts.port_doorbells, expected(port()));
  EXPECT_TRUE(port_bus.interrupts.doorbells.empty());
  port_bus.config_write(0x18, Width::Dword, 0xe000);
  EXPECT_EQ(port_bus.interrupts.port_doorbells, expected(0xe000));
  port_bus.config_write(4, Width::Word, 2);  // I/O space off
  EXPECT_TRUE(port_bus.interrupts.port_doorbells.empty());
}

TEST_F(PortTest, drivers_find_ports_first_and_memory_behind) {
  const unsigned first = port_bus.find_capability(kPciCapVendorSpecific, 2);
  EXPECT_EQ(port_bus.config_read(first + 4, Width::Byte), virtio_pci::kPortBar);
  EXPECT_EQ(port_bus.config_read(first + 8, Width::Dword), 0U);
  EXPECT_EQ(port_bus.config_read(first + 12, Width::Dword), 8U);
  EXPECT_EQ(port_bus.config_read(first + 16, Width::Dword), virtio_pci::kNotifyMultiplier);
  const unsigned second = port_bus.config_read(first + 1, Width::Byte);
  EXPECT_EQ(port_bus.config_read(second + 3, Width::Byte), 2U);
  EXPECT_EQ(port_bus.config_read(second + 4, Width::Byte), virtio_pci::kBar);
}

TEST_F(PortTest, both_places_ring) {
  const auto ring = [&](uint16_t offset, Width width) {
    port_bus.port_write(Port(static_cast<uint16_t>(port() + offset)), width, 0);
  };
  port_bus.write(offsetof(CommonConfig, device_status), Width::Byte, 3);
  port_bus.write(offsetof(CommonConfig, driver_feature_select), Width::Dword, 1);
  port_bus.write(offsetof(CommonConfig, driver_feature), Width::Dword, 1);
  port_bus.write(offsetof(CommonConfig, device_status), Width::Byte, 11);
  ring(0, Width::Word);  // before its time
  port_bus.write(offsetof(CommonConfig, device_status), Width::Byte, 15);
  uint64_t count = 0;
  EXPECT_LT(::read(port_bus.transport->doorbell(1).get(), &count, sizeof(count)), 0);
  ring(4, Width::Word);
  port_bus.write(VirtioPci::doorbell_offset(1), Width::Word, 1);
  ring(64 * 4, Width::Word);  // no queue, and behind the BAR
  EXPECT_EQ(::read(port_bus.transport->doorbell(1).get(), &count, sizeof(count)), 8);
  EXPECT_EQ(count, 2U);
  EXPECT_LT(::read(port_bus.transport->doorbell(0).get(), &count, sizeof(count)), 0);
}

TEST_F(PciTest, identity_and_capabilities_are_those_of_a_modern_device) {
  EXPECT_EQ(bus.config_read(0, Width::Dword), 0x1042'1af4U);
  EXPECT_EQ(bus.config_read(8, Width::Byte), 1U);
  for (uint8_t type = 1; type <= 5; ++type) {
    const unsigned at = bus.find_capability(kPciCapVendorSpecific, type);
    ASSERT_NE(at, 0U) << int{type};
    EXPECT_EQ(bus.config_read(at + 4, Width::Byte), 0U);
    EXPECT_GE(bus.config_read(at + 2, Width::Byte), 16U);
  }
  const unsigned notify = bus.find_capability(kPciCapVendorSpecific, 2);
  EXPECT_EQ(bus.config_read(notify + 8, Width::Dword), virtio_pci::kNotifyOffset);
  EXPECT_EQ(bus.config_read(notify + 12, Width::Dword), 8U);
  EXPECT_EQ(bus.config_read(notify + 16, Width::Dword), 4U);
  const unsigned msix = bus.find_capability(kPciCapMsix);
  ASSERT_NE(msix, 0U);
  EXPECT_EQ(bus.config_read(msix + 2, Width::Word) & 0x7ff, 2U);  // 3 vectors
}

TEST_F(PciTest, features_are_offered_in_two_halves) {
  set_common(offsetof(CommonConfig, device_feature_select), Width::Dword, 0);
  EXPECT_EQ(get(offsetof(CommonConfig, device_feature), Width::Dword),
            kOwnFeature | kFeatureEventIdx | kFeatureIndirectDesc);
  set_common(offsetof(CommonConfig, device_feature_select), Width::Dword, 1);
  EXPECT_EQ(get(offsetof(CommonConfig, device_feature), Width::Dword), 1U);
  set_common(offsetof(CommonConfig, device_feature_select), Width::Dword, 2);
  EXPECT_EQ(get(offsetof(CommonConfig, device_feature), Width::Dword), 0U);
}

TEST_F(PciTest, unacceptable_features_do_not_stick) {
  negotiate(kOwnFeature);  // no VERSION_1
  EXPECT_EQ(status(), kStatusAcknowledge | kStatusDriver);
  negotiate(kFeatureVersion1 | feature_bit(6));  // not offered
  EXPECT_EQ(status(), kStatusAcknowledge | kStatusDriver);
  set_status(0xf);
  EXPECT_EQ(status(), kStatusAcknowledge | kStatusDriver);
  negotiate(kFeatureVersion1 | kOwnFeature);
  EXPECT_EQ(status(), 11);
}

TEST_F(PciTest, driver_ok_needs_features_ok_before_it) {
  set_features(kFeatureVersion1);
  set_status(0xf);
  EXPECT_EQ(status(), 11);
  run_loop();
  EXPECT_EQ(device.activations, 0);
}

TEST_F(PciTest, features_are_fixed_after_features_ok) {
  negotiate();
  set_features(kFeatureVersion1 | kOwnFeature);
  set_status(0xf);
  run_loop();
  ASSERT_NE(device.active, nullptr);
  EXPECT_EQ(device.active->features, kFeatureVersion1);
}

TEST_F(PciTest, queue_registers_are_per_queue_and_fixed_once_enabled) {
  set_common(offsetof(CommonConfig, queue_select), Width::Word, 1);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 16U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_notify_off), Width::Word), 1U);
  set_common(offsetof(CommonConfig, queue_size), Width::Word, 32);  // too large
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 16U);
  set_queue(1, {8, Gpa{0x1'2345'6780}, Gpa{0x1002}, Gpa{0x2000}});
  set_queue(1, {4, Gpa{0}, Gpa{0}, Gpa{0}});
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 8U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_desc_lo), Width::Dword), 0x2345'6780U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_desc_hi), Width::Dword), 1U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_enable), Width::Word), 1U);
  set_common(offsetof(CommonConfig, queue_select), Width::Word, 2);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 0U);
  set_common(offsetof(CommonConfig, queue_select), Width::Word, 0xffff);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 0U);
  EXPECT_EQ(get(offsetof(CommonConfig, num_queues), Width::Word), 2U);
}

TEST_F(PciTest, kicked_queue_is_served_and_interrupts_by_its_vector) {
  enable_msix();
  negotiate();
  set_queue(0, driver.config());
  set_vector(0, 1);
  set_status(0xf);
  driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  kick(0);
  run_loop();
  EXPECT_EQ(driver.take_used()->len, 16U);
  EXPECT_EQ(bus.interrupts.take_messages(), std::vector<uint32_t>{41});
  EXPECT_FALSE(bus.interrupts.level());
}

TEST_F(PciTest, interrupt_is_lent_until_it_moves) {
  FakeMsiEvent::Log log;
  bus.interrupts.events = &log;
  enable_msix();
  negotiate();
  set_queue(0, driver.config());
  set_vector(0, 1);
  set_status(0xf);
  run_loop();
  DeviceInterrupt& interrupt = device.active->interrupt;
  EXPECT_NE(interrupt.lend_interrupt(0), nullptr);
  EXPECT_EQ(log.set.back().data, 41U);
  EXPECT_EQ(interrupt.lend_interrupt(1), nullptr);  // has no vector
  EXPECT_EQ(interrupt.lend_interrupt(2), nullptr);  // is none
  EXPECT_EQ(device.moves, 0);

  set_vector(0, 2);
  set_vector(0, 2);
  run_loop();
  EXPECT_EQ(device.moves, 1);
  EXPECT_NE(interrupt.lend_interrupt(0), nullptr);
  EXPECT_EQ(log.set.back().data, 42U);

  bus.config_write(bus.find_capability(kPciCapMsix) + 2, Width::Word, 0);
  run_loop();
  EXPECT_EQ(device.moves, 2);
  EXPECT_EQ(interrupt.lend_interrupt(0), nullptr);
  set_status(0);
  set_vector(0, 1);
  run_loop();
  EXPECT_EQ(device.moves, 2);
}

TEST_F(PciTest, device_that_stops_early_is_called_again) {
  start();
  for (int i = 0; i < 10; ++i) driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  kick(0);
  run_loop();
  EXPECT_EQ(device.echoed, 10);
}

TEST_F(PciTest, without_msix_the_wire_and_the_isr_tell) {
  start();
  driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  kick(0);
  run_loop();
  EXPECT_TRUE(bus.interrupts.level());
  EXPECT_EQ(isr(), virtio_pci::kIsrQueue);
  EXPECT_FALSE(bus.interrupts.level());
  EXPECT_EQ(isr(), 0);
}

TEST_F(PciTest, vector_that_does_not_exist_reads_back_as_none) {
  set_vector(0, 3);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_msix_vector), Width::Word), 0xffffU);
  set_vector(0, 2);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_msix_vector), Width::Word), 2U);
  set_common(offsetof(CommonConfig, config_msix_vector), Width::Word, 100);
  EXPECT_EQ(get(offsetof(CommonConfig, config_msix_vector), Width::Word), 0xffffU);
}

TEST_F(PciTest, broken_queue_asks_for_a_reset_once) {
  enable_msix();
  negotiate();
  set_queue(0, driver.config());
  set_common(offsetof(CommonConfig, config_msix_vector), Width::Word, 0);
  set_status(0xf);
  driver.offer(999);
  driver.publish();
  kick(0);
  run_loop();
  EXPECT_EQ(status(), 0xf | kStatusNeedsReset);
  EXPECT_EQ(bus.interrupts.take_messages(), std::vector<uint32_t>{40});
  kick(0);
  run_loop();
  EXPECT_TRUE(bus.interrupts.take_messages().empty());
  set_status(0);
  EXPECT_EQ(status(), 0);
}

TEST_F(PciTest, queue_in_bad_memory_asks_for_a_reset) {
  negotiate();
  set_queue(0, {16, Gpa{MiB}, Gpa{0x1000}, Gpa{0x2000}});
  set_status(0xf);
  run_loop();
  EXPECT_EQ(status(), 0xf | kStatusNeedsReset);
  kick(0);
  run_loop();
}

TEST_F(PciTest, reset_makes_the_device_inactive_and_clears_everything) {
  start();
  EXPECT_EQ(device.activations, 1);
  set_status(0);
  EXPECT_EQ(device.resets, 1);
  EXPECT_EQ(device.active, nullptr);
  EXPECT_EQ(status(), 0);
  set_common(offsetof(CommonConfig, queue_select), Width::Word, 0);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_enable), Width::Word), 0U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_size), Width::Word), 64U);
  EXPECT_EQ(get(offsetof(CommonConfig, queue_desc_lo), Width::Dword), 0U);
  kick(0);
  run_loop();
  EXPECT_EQ(device.echoed, 0);
}

TEST_F(PciTest, status_bits_cannot_be_cleared_one_by_one) {
  negotiate();
  set_status(kStatusAcknowledge);
  EXPECT_EQ(status(), 11);
}

TEST_F(PciTest, device_configuration_is_reached_with_any_width) {
  EXPECT_EQ(get(virtio_pci::kDeviceOffset, Width::Dword), 0x04030201U);
  EXPECT_EQ(get(virtio_pci::kDeviceOffset + 4, Width::Dword), 0x0605U);  // ends there
  EXPECT_EQ(get(virtio_pci::kDeviceOffset + 5, Width::Byte), 6U);
  EXPECT_EQ(get(virtio_pci::kDeviceOffset + 6, Width::Byte), 0U);
  bus.write(virtio_pci::kDeviceOffset + 5, Width::Dword, 0x99);
  EXPECT_EQ(device.config[5], 0x99);
}

TEST_F(PciTest, configuration_change_raises_generation_and_interrupt) {
  start();
  const uint64_t before = get(offsetof(CommonConfig, config_generation), Width::Byte);
  device.active->interrupt.config_changed();
  EXPECT_NE(get(offsetof(CommonConfig, config_generation), Width::Byte), before);
  EXPECT_EQ(isr(), virtio_pci::kIsrConfig);
}

TEST_F(PciTest, window_in_configuration_space_reaches_the_bar) {
  const unsigned at = bus.find_capability(kPciCapVendorSpecific, 5);
  const auto aim = [&](uint32_t bar, uint32_t offset, uint32_t length) {
    bus.config_write(at + 4, Width::Byte, bar);
    bus.config_write(at + 8, Width::Dword, offset);
    bus.config_write(at + 12, Width::Dword, length);
  };
  aim(0, virtio_pci::kDeviceOffset, 4);
  EXPECT_EQ(bus.config_read(at + 16, Width::Dword), 0x04030201U);
  aim(0, virtio_pci::kDeviceOffset + 2, 2);
  bus.config_write(at + 16, Width::Word, 0xbbaa);
  EXPECT_EQ(device.config[3], 0xbb);
  aim(0, offsetof(CommonConfig, device_status), 1);
  bus.config_write(at + 16, Width::Byte, 1);
  EXPECT_EQ(status(), 1);
  for (const auto& [bar, offset, length] : {std::array<uint32_t, 3>{1, 0, 4},
                                            {0, 1, 4},
                                            {0, 0, 3},
                                            {0, 0, 0},
                                            {0, 32 * 1024, 4},
                                            {0, 0xffff'fffc, 4},
                                            {0, 0, 0x8000'0000}}) {
    aim(bar, offset, length);
    EXPECT_EQ(bus.config_read(at + 16, Width::Dword), 0xffff'ffffU) << bar << " " << offset;
    bus.config_write(at + 16, Width::Dword, 0);
  }
  EXPECT_EQ(status(), 1);
}

TEST_F(PciTest, saved_device_goes_on_in_another) {
  enable_msix();
  negotiate();
  set_queue(0, driver.config());
  set_vector(0, 2);
  set_status(0xf);
  run_loop();
  driver.add(Buffer{Gpa{0x10000}, 16, true});
  driver.publish();
  kick(0);  // not served before the snapshot
  const VirtioPciState state = bus.transport->save_state();

  EchoDevice other;
  TestBus copy(other, *memory, *loop);
  ASSERT_TRUE(copy.transport->restore_state(state).has_value());
  set_status(0);  // the first one is gone
  run_loop();
  EXPECT_EQ(other.echoed, 1);
  EXPECT_EQ(copy.interrupts.take_messages(), std::vector<uint32_t>{42});
  EXPECT_EQ(copy.read(offsetof(CommonConfig, device_status), Width::Byte), 0xfU);
}

// Under ThreadSanitizer: vCPUs reset, start and kick while the device's thread works.
TEST(PciThreads, resets_while_the_device_works_are_safe) {
  const auto memory = make_test_memory();
  EchoDevice device;
  auto thread = std::move(EventLoopThread::create("virtio")).value();
  {
    TestBus bus(device, *memory, thread->loop());
    std::atomic<bool> is_over{false};
    std::thread kicker([&] {
      while (!is_over.load()) {
        bus.write(VirtioPci::doorbell_offset(0), Width::Word, 0);
        (void)bus.read(virtio_pci::kIsrOffset, Width::Byte);
        (void)bus.read(virtio_pci::kDeviceOffset, Width::Dword);
      }
    });
    for (int round = 0; round < 200; ++round) {
      const auto set = [&](size_t offset, Width width, uint64_t value) {
        bus.write(offset, width, value);
      };
      TestDriver driver(*memory, 16, Gpa{0x1000});
      for (const uint64_t status : {1U, 3U}) set(20, Width::Byte, status);
      set(8, Width::Dword, 1);
      set(12, Width::Dword, 1);
      set(20, Width::Byte, 11);
      set(22, Width::Word, 0);
      set(24, Width::Word, 16);
      set(32, Width::Qword, driver.config().desc.raw());
      set(40, Width::Qword, driver.config().avail.raw());
      set(48, Width::Qword, driver.config().used.raw());
      set(28, Width::Word, 1);
      set(20, Width::Byte, 15);
      for (int i = 0; i < 16; ++i) driver.add(Buffer{Gpa{0x10000}, 16, true});
      driver.publish();
      set(VirtioPci::doorbell_offset(0), Width::Word, 0);
      while (round % 2 == 0 && driver.used_idx() < 16) std::this_thread::yield();
      set(20, Width::Byte, 0);
      EXPECT_EQ(bus.read(20, Width::Byte), 0U);
    }
    is_over.store(true);
    kicker.join();
  }
  EXPECT_EQ(device.activations, 200);
  EXPECT_EQ(device.resets, 200);
  EXPECT_GE(device.echoed, 1600);
}

}  // namespace
}  // namespace trapeze
