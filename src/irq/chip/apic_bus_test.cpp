#include "irq/chip/apic_bus.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/check.h"
#include "irq/chip/lapic_test_support.h"

namespace trapeze {
namespace {

using namespace apic_reg;

constexpr uint8_t kVector = 0x51;

// Four enabled CPUs with IDs 0, 1, 2 and 18.
class ApicBusTest : public ::testing::Test {
 protected:
  ApicBusTest() {
    for (const uint32_t id : {18U, 0U, 2U, 1U}) {
      cpus_.push_back(std::make_unique<LapicFixture>(LapicConfig{.id = VcpuId(id)}));
      cpus_.back()->enable();
      bus_.add(cpus_.back()->lapic);
    }
  }
  LapicFixture& cpu(uint32_t id) {
    for (auto& cpu : cpus_) {
      if (cpu->lapic.id() == id) return *cpu;
    }
    CHECK(false);
  }
  void set_logical(uint32_t id, uint8_t logical_id, uint32_t dfr) {
    cpu(id).write(kLdr, uint32_t{logical_id} << 24);
    cpu(id).write(kDfr, dfr);
  }
  // The IDs of the CPUs that got kVector since the last call.
  std::vector<uint32_t> receivers() {
    std::vector<uint32_t> ids;
    for (const uint32_t id : {0U, 1U, 2U, 18U}) {
      Lapic& lapic = cpu(id).lapic;
      if (lapic.pending_vector() != kVector) continue;
      ids.push_back(id);
      lapic.init_reset();
      if (lapic.is_mmio_visible()) {
        cpu(id).enable();
      } else {
        lapic.msr_write(LapicFixture::msr(kSpurious), 0x1ff);
      }
    }
    return ids;
  }
  using Ids = std::vector<uint32_t>;

  std::vector<std::unique_ptr<LapicFixture>> cpus_;
  ApicBus bus_;
};

constexpr uint32_t kFlat = 0xffff'ffff;
constexpr uint32_t kCluster = 0x0fff'ffff;

TEST_F(ApicBusTest, physical_destination_reaches_one_cpu) {
  EXPECT_TRUE(bus_.send({.vector = kVector, .destination = 18}));
  EXPECT_EQ(receivers(), Ids{18});
}

TEST_F(ApicBusTest, physical_destination_of_nobody_is_not_accepted) {
  EXPECT_FALSE(bus_.send({.vector = kVector, .destination = 3}));
  EXPECT_FALSE(bus_.send({.vector = kVector, .wide = true, .destination = 0x1234'5678}));
  EXPECT_EQ(receivers(), Ids{});
}

TEST_F(ApicBusTest, broadcast_reaches_all) {
  EXPECT_TRUE(bus_.send({.vector = kVector, .destination = 0xff}));
  EXPECT_EQ(receivers(), (Ids{0, 1, 2, 18}));
  EXPECT_TRUE(bus_.send({.vector = kVector, .wide = true, .destination = 0xffff'ffff}));
  EXPECT_EQ(receivers(), (Ids{0, 1, 2, 18}));
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .destination = 0xff}));
  EXPECT_EQ(receivers(), (Ids{0, 1, 2, 18}));
}

TEST_F(ApicBusTest, wide_0xff_is_an_id_not_a_broadcast) {
  EXPECT_FALSE(bus_.send({.vector = kVector, .wide = true, .destination = 0xff}));
  EXPECT_EQ(receivers(), Ids{});
}

TEST_F(ApicBusTest, shorthands_ignore_the_destination) {
  bus_.send({.shorthand = Shorthand::AllExcludingSelf, .vector = kVector, .source = 1});
  EXPECT_EQ(receivers(), (Ids{0, 2, 18}));
  bus_.send({.shorthand = Shorthand::AllIncludingSelf, .vector = kVector, .source = 1});
  EXPECT_EQ(receivers(), (Ids{0, 1, 2, 18}));
  bus_.send({.shorthand = Shorthand::Self, .vector = kVector, .source = 1});
  EXPECT_EQ(receivers(), Ids{1});
}

TEST_F(ApicBusTest, flat_logical_destination_is_a_bit_mask) {
  set_logical(0, 0x01, kFlat);
  set_logical(1, 0x02, kFlat);
  set_logical(2, 0x06, kFlat);
  set_logical(18, 0x00, kFlat);
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .destination = 0x02}));
  EXPECT_EQ(receivers(), (Ids{1, 2}));
  EXPECT_FALSE(bus_.send({.vector = kVector, .logical = true, .destination = 0xf0}));
}

TEST_F(ApicBusTest, cluster_logical_destination_names_cluster_and_members) {
  set_logical(0, 0x11, kCluster);
  set_logical(1, 0x12, kCluster);
  set_logical(2, 0x21, kCluster);
  set_logical(18, 0x13, kCluster);
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .destination = 0x12}));
  EXPECT_EQ(receivers(), (Ids{1, 18}));
  set_logical(2, 0x21, kCluster);
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .destination = 0x2f}));
  EXPECT_EQ(receivers(), Ids{2});
}

TEST_F(ApicBusTest, x2apic_logical_id_comes_from_the_apic_id) {
  for (const uint32_t id : {0U, 1U, 2U, 18U}) cpu(id).enable_x2apic();
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .wide = true, .destination = 0x6}));
  EXPECT_EQ(receivers(), (Ids{1, 2}));
  EXPECT_TRUE(
      bus_.send({.vector = kVector, .logical = true, .wide = true, .destination = 0x1'0004}));
  EXPECT_EQ(receivers(), Ids{18});
  EXPECT_TRUE(bus_.send({.vector = kVector, .logical = true, .destination = 0x03}));  // an MSI
  EXPECT_EQ(receivers(), (Ids{0, 1}));
}

TEST_F(ApicBusTest, disabled_apics_are_no_targets) {
  cpu(0).lapic.set_apic_base(0xfee0'0000);
  cpu(1).write(kSpurious, 0xff);
  EXPECT_FALSE(bus_.send({.vector = kVector, .destination = 0}));
  EXPECT_FALSE(bus_.send({.vector = kVector, .destination = 1}));
  EXPECT_TRUE(bus_.send({.vector = kVector, .destination = 0xff}));
  EXPECT_EQ(receivers(), (Ids{2, 18}));
}

TEST_F(ApicBusTest, lowest_priority_picks_the_least_busy) {
  cpu(0).lapic.set_tpr(4);
  cpu(1).lapic.set_tpr(2);
  cpu(2).lapic.set_tpr(3);
  cpu(18).lapic.set_tpr(4);
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(
        bus_.send({.mode = DeliveryMode::LowestPriority, .vector = kVector, .destination = 0xff}));
    EXPECT_TRUE(cpu(1).has_vector(kIrr, kVector));
  }
  EXPECT_EQ(receivers(), Ids{1});
}

TEST_F(ApicBusTest, lowest_priority_among_equals_takes_turns) {
  for (int i = 0; i < 4; ++i) {
    bus_.send({.mode = DeliveryMode::LowestPriority, .vector = kVector, .destination = 0xff});
  }
  EXPECT_EQ(receivers(), (Ids{0, 1, 2, 18}));
}

TEST_F(ApicBusTest, redirection_hint_picks_one) {
  set_logical(0, 0x01, kFlat);
  set_logical(1, 0x02, kFlat);
  EXPECT_TRUE(
      bus_.send({.vector = kVector, .logical = true, .one_target = true, .destination = 0x03}));
  EXPECT_EQ(receivers().size(), 1U);
}

TEST_F(ApicBusTest, removed_apic_gets_nothing) {
  bus_.remove(cpu(2).lapic);
  EXPECT_FALSE(bus_.send({.vector = kVector, .destination = 2}));
  EXPECT_TRUE(bus_.send({.vector = kVector, .destination = 0xff}));
  EXPECT_EQ(receivers(), (Ids{0, 1, 18}));
}

TEST_F(ApicBusTest, msi_reaches_its_cpu) {
  EXPECT_TRUE(bus_.send_msi({.address = 0xfee1'2000, .data = kVector}));
  EXPECT_EQ(receivers(), Ids{18});
  EXPECT_FALSE(bus_.send_msi({.address = 0xfec1'2000, .data = kVector}));
}

TEST(Msi, fields_are_parsed) {
  const auto message = parse_msi({.address = 0xfeea'b00c, .data = 0xc1e7});
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(*message, (ApicMessage{.mode = DeliveryMode::LowestPriority,
                                   .vector = 0xe7,
                                   .level_triggered = true,
                                   .asserted = true,
                                   .logical = true,
                                   .one_target = true,
                                   .destination = 0xab}));
  EXPECT_EQ(to_msi(*message), (MsiMessage{.address = 0xfeea'b00c, .data = 0xc1e7}));
}

TEST(Msi, foreign_address_is_refused) {
  EXPECT_FALSE(parse_msi({.address = 0xfed0'0000, .data = 0x41}).has_value());
  EXPECT_FALSE(parse_msi({.address = 0x1'fee0'0000, .data = 0x41}).has_value());
  EXPECT_FALSE(parse_msi({.address = 0, .data = 0x41}).has_value());
}

}  // namespace
}  // namespace trapeze
