#include "bus/pci/msix.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "bus/pci/fake_interrupts.h"

namespace trapeze {
namespace {

constexpr uint32_t kControl = 12;  // offset of Vector Control in an entry

void program(Msix& msix, uint16_t vector, uint64_t address, uint32_t data) {
  const uint64_t at = vector * Msix::kEntryBytes;
  msix.table_write(at, Width::Qword, address);
  msix.table_write(at + 8, Width::Dword, data);
  msix.table_write(at + kControl, Width::Dword, 0);
}

class MsixTest : public testing::Test {
 protected:
  void SetUp() override { msix_.connect(sink_); }
  FakeInterrupts sink_;
  Msix msix_{3};
};

TEST_F(MsixTest, enabled_and_unmasked_vector_sends_its_message) {
  program(msix_, 1, 0xfee0'1000, 0x4041);
  msix_.set_control(true, false);
  msix_.notify(1);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'1000, 0x4041}}));
  EXPECT_EQ(msix_.pending_read(0, Width::Qword), 0U);
}

TEST_F(MsixTest, event_is_written_where_the_sink_has_one) {
  FakeMsiEvent::Log log;
  sink_.events = &log;
  program(msix_, 1, 0xfee0'1000, 0x4041);
  msix_.set_control(true, false);
  msix_.notify(1);
  program(msix_, 1, 0xfee0'2000, 0x4041);
  msix_.notify(1);
  EXPECT_EQ(log.set, (std::vector<MsiMessage>{{0xfee0'1000, 0x4041}, {0xfee0'2000, 0x4041}}));
  EXPECT_EQ(log.signals, 2);
  EXPECT_TRUE(sink_.messages.empty());
}

TEST_F(MsixTest, event_that_cannot_be_had_leaves_the_message) {
  FakeMsiEvent::Log log;
  log.works = false;
  sink_.events = &log;
  program(msix_, 1, 0xfee0'1000, 0x4041);
  msix_.set_control(true, false);
  msix_.notify(1);
  EXPECT_EQ(log.signals, 0);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'1000, 0x4041}}));
}

// Events that others write to ---------------------------------------------------------------------

class LentMsixTest : public MsixTest {
 protected:
  void SetUp() override {
    MsixTest::SetUp();
    sink_.events = &log_;
    program(msix_, 1, 0xfee0'1000, 0x4041);
    msix_.set_control(true, false);
  }
  Msix::Lent mask(bool masked) {
    return msix_.table_write(Msix::kEntryBytes + kControl, Width::Dword, masked ? 1 : 0);
  }
  static void write_to(const Fd& event) {
    const uint64_t one = 1;
    ASSERT_EQ(::write(event.get(), &one, sizeof(one)), 8);
  }
  FakeMsiEvent::Log log_;
};

TEST_F(LentMsixTest, event_has_the_message_at_once_and_when_it_changes) {
  const Fd* const event = msix_.lend(1);
  ASSERT_NE(event, nullptr);
  EXPECT_TRUE(event->is_open());
  EXPECT_EQ(log_.set, (std::vector<MsiMessage>{{0xfee0'1000, 0x4041}}));
  mask(true);
  msix_.table_write(Msix::kEntryBytes + 8, Width::Dword, 0x4042);
  EXPECT_EQ(mask(false), Msix::Lent::Valid);
  EXPECT_EQ(log_.set.back(), (MsiMessage{0xfee0'1000, 0x4042}));
  EXPECT_EQ(msix_.lend(1), event);
  EXPECT_EQ(log_.signals, 0);
}

TEST_F(LentMsixTest, masked_event_is_held_and_its_counter_is_the_pending_bit) {
  const Fd& event = *msix_.lend(1);
  mask(true);
  EXPECT_EQ(log_.holds, 1);
  EXPECT_EQ(msix_.pending_read(0, Width::Qword), 0U);
  write_to(event);
  EXPECT_EQ(msix_.pending_read(0, Width::Qword), 2U);
  EXPECT_TRUE(msix_.save().vectors[1].pending);
  log_.set.clear();
  EXPECT_EQ(mask(false), Msix::Lent::Valid);
  EXPECT_EQ(log_.set.size(), 1U);  // sends what it holds
  msix_.set_control(true, true);
  EXPECT_EQ(log_.holds, 2);
}

TEST_F(LentMsixTest, nothing_is_lent_where_nothing_could_be_sent) {
  EXPECT_EQ(msix_.lend(3), nullptr);
  EXPECT_EQ(msix_.lend(0xffff), nullptr);
  log_.works = false;
  EXPECT_EQ(msix_.lend(1), nullptr);
  log_.works = true;
  EXPECT_NE(msix_.lend(1), nullptr);
  EXPECT_EQ(msix_.set_control(false, false), Msix::Lent::Recalled);
  EXPECT_EQ(msix_.lend(1), nullptr);
  EXPECT_EQ(msix_.set_control(true, false), Msix::Lent::Valid);
  sink_.events = nullptr;
  EXPECT_EQ(msix_.lend(0), nullptr);
}

TEST_F(LentMsixTest, event_that_the_host_refuses_later_is_recalled_once) {
  ASSERT_NE(msix_.lend(1), nullptr);
  mask(true);
  log_.works = false;
  EXPECT_EQ(mask(false), Msix::Lent::Recalled);
  EXPECT_EQ(mask(true), Msix::Lent::Valid);
  EXPECT_EQ(mask(false), Msix::Lent::Valid);
  msix_.notify(1);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'1000, 0x4041}}));
}

TEST_F(LentMsixTest, restored_table_has_lent_nothing) {
  ASSERT_NE(msix_.lend(1), nullptr);
  ASSERT_TRUE(msix_.restore(msix_.save()).has_value());
  EXPECT_EQ(log_.holds, 1);
  EXPECT_EQ(msix_.set_control(false, false), Msix::Lent::Valid);
}

TEST_F(MsixTest, disabled_msix_sends_nothing_and_remembers_nothing) {
  program(msix_, 0, 0xfee0'0000, 0x30);
  msix_.notify(0);
  msix_.set_control(true, false);
  EXPECT_TRUE(sink_.messages.empty());
}

TEST_F(MsixTest, masked_vector_is_pending_until_it_is_unmasked) {
  program(msix_, 2, 0xfee0'0000, 0x55);
  msix_.set_control(true, false);
  msix_.table_write(2 * 16 + kControl, Width::Dword, 1);
  msix_.notify(2);
  msix_.notify(2);
  EXPECT_TRUE(sink_.messages.empty());
  EXPECT_EQ(msix_.pending_read(0, Width::Byte), 4U);
  msix_.table_write(2 * 16 + kControl, Width::Dword, 0);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'0000, 0x55}}));
  EXPECT_EQ(msix_.pending_read(0, Width::Byte), 0U);
}

TEST_F(MsixTest, function_mask_holds_all_vectors_back) {
  program(msix_, 0, 0xfee0'0000, 0x30);
  program(msix_, 1, 0xfee0'0000, 0x31);
  msix_.set_control(true, true);
  msix_.notify(0);
  msix_.notify(1);
  EXPECT_EQ(msix_.pending_read(0, Width::Qword), 3U);
  msix_.set_control(true, false);
  EXPECT_EQ(sink_.messages.size(), 2U);
}

TEST_F(MsixTest, table_reads_back_with_reserved_bits_clear) {
  msix_.table_write(16, Width::Dword, 0xfee0'1003);
  msix_.table_write(20, Width::Dword, 0x1);
  msix_.table_write(24, Width::Dword, 0xdeadbeef);
  EXPECT_EQ(msix_.table_read(16, Width::Qword), 0x1'fee0'1000U);
  EXPECT_EQ(msix_.table_read(24, Width::Qword), 0x1'deadbeefU);  // masked from reset on
  EXPECT_EQ(msix_.table_read(25, Width::Word), 0xadbeU);
}

TEST_F(MsixTest, accesses_outside_the_table_and_of_odd_shape_do_nothing) {
  const MsixState before = msix_.save();
  msix_.table_write(48, Width::Dword, 0);
  msix_.table_write(~uint64_t{0} - 7, Width::Qword, 0);
  msix_.table_write(12, Width::Byte, 0);
  msix_.table_write(2, Width::Dword, 0x1234);
  msix_.notify(3);
  msix_.notify(0xffff);
  EXPECT_EQ(msix_.save(), before);
  EXPECT_EQ(msix_.table_read(48, Width::Qword), 0U);
}

TEST_F(MsixTest, restored_table_still_owes_its_pending_interrupt) {
  program(msix_, 0, 0xfee0'0000, 0x30);
  msix_.set_control(true, true);
  msix_.notify(0);
  Msix other(3);
  other.connect(sink_);
  ASSERT_TRUE(other.restore(msix_.save()));
  EXPECT_TRUE(sink_.messages.empty());
  other.set_control(true, false);
  EXPECT_EQ(sink_.messages, (std::vector<MsiMessage>{{0xfee0'0000, 0x30}}));
  EXPECT_FALSE(Msix(4).restore(msix_.save()));
}

}  // namespace
}  // namespace trapeze
