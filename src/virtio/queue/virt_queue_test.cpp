#include "virtio/queue/virt_queue.h"

#include <gtest/gtest.h>

#include <random>

#include "virtio/queue/iov.h"
#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using Buffer = TestDriver::Buffer;
using split_ring::Descriptor;
using split_ring::kDescIndirect;
using split_ring::kDescNext;
using split_ring::kDescWrite;

constexpr Gpa kRings{0x1000};
constexpr Gpa kTable{0x8000};
constexpr Gpa kData{0x10000};

struct Fixture : ::testing::Test {
  explicit Fixture(QueueFeatures features = {.event_idx = false, .indirect = true})
      : driver(*memory, 8, kRings, features) {
    EXPECT_EQ(queue.configure(driver.config(), features, 8), QueueFault::None);
  }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver driver;
  int faults = 0;
  VirtQueue queue{*memory, [this](QueueFault) { ++faults; }};
  Chain chain;
};

using VirtQueueTest = Fixture;

TEST_F(VirtQueueTest, chain_round_trip_gives_parts_in_order) {
  memory->write(kData, std::as_bytes(std::span("abcdef", 6)));
  const uint16_t head =
      driver.add(std::array{Buffer{kData, 4}, Buffer{kData + 4, 2}, Buffer{kData + 16, 8, true}});
  driver.publish();

  ASSERT_TRUE(queue.pop(chain));
  std::array<char, 8> text{};
  ChainReader reader(chain);
  EXPECT_EQ(reader.read(std::as_writable_bytes(std::span(text))), 6U);
  EXPECT_STREQ(text.data(), "abcdef");
  EXPECT_EQ(chain.readable_bytes(), 6U);
  EXPECT_EQ(chain.writable_bytes(), 8U);
  ChainWriter writer(chain);
  EXPECT_EQ(writer.write(std::as_bytes(std::span("0123456789", 10))), 8U);
  queue.push_used(chain, writer.position());

  const auto used = driver.take_used();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->len, 8U);
  EXPECT_EQ(text_at(*memory, kData + 16, 8), "01234567");
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_FALSE(queue.is_broken());
}

TEST_F(VirtQueueTest, indices_wrap_around_many_times) {
  for (uint32_t i = 0; i < 70000; ++i) {
    driver.add(Buffer{kData, 1});
    driver.publish();
    ASSERT_TRUE(queue.pop(chain)) << i;
    queue.push_used(chain, 0);
    ASSERT_TRUE(driver.take_used().has_value()) << i;
  }
}

TEST_F(VirtQueueTest, indirect_chain_is_followed) {
  driver.add_indirect(std::array{Buffer{kData, 4}, Buffer{kData + 8, 4, true}}, kTable);
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_EQ(chain.writable().size(), 1U);
}

TEST_F(VirtQueueTest, indirect_table_at_the_end_of_a_direct_chain_is_followed) {
  memory->store(kTable, Descriptor{kData.raw() + 8, 4, kDescWrite, 0});
  driver.set_desc(0, {kData.raw(), 4, kDescNext, 1});
  driver.set_desc(1, {kTable.raw(), 16, kDescIndirect, 0});
  driver.offer(0);
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  EXPECT_EQ(chain.readable_bytes(), 4U);
  EXPECT_EQ(chain.writable_bytes(), 4U);
}

TEST_F(VirtQueueTest, unaligned_indirect_table_is_followed) {
  driver.add_indirect(std::array{Buffer{kData, 4}}, kTable + 1);
  driver.publish();
  EXPECT_TRUE(queue.pop(chain));
}

TEST_F(VirtQueueTest, empty_descriptors_are_skipped) {
  driver.add(std::array{Buffer{kData, 0}, Buffer{kData, 3}, Buffer{Gpa{~uint64_t{0}}, 0, true}});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_TRUE(chain.writable().empty());
}

TEST_F(VirtQueueTest, undo_pop_gives_the_same_chain_again) {
  const uint16_t head = driver.add(Buffer{kData, 4});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  queue.undo_pop();
  ASSERT_TRUE(queue.pop(chain));
  EXPECT_EQ(chain.head(), head);
}

TEST_F(VirtQueueTest, used_length_is_cut_to_the_writable_part) {
  driver.add(Buffer{kData, 4, true});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  queue.push_used(chain, ~uint64_t{0});
  EXPECT_EQ(driver.take_used()->len, 4U);
}

struct Recorder final : WriteObserver {
  void guest_memory_written(GpaRange range) override { ranges.push_back(range); }
  bool saw(Gpa gpa, uint64_t len) const {
    for (const GpaRange& range : ranges) {
      if (range.contains(gpa, len)) return true;
    }
    return false;
  }
  std::vector<GpaRange> ranges;
};

TEST_F(VirtQueueTest, guest_memory_hears_of_data_and_ring_writes) {
  Recorder recorder;
  memory->set_write_observer(&recorder);
  driver.add(std::array{Buffer{kData, 4, true}, Buffer{kData + 100, 4, true}});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  ChainWriter(chain).write(std::as_bytes(std::span("12345", 5)));
  queue.push_used(chain, 1);  // fewer than were written
  EXPECT_TRUE(recorder.saw(kData, 4));
  EXPECT_TRUE(recorder.saw(kData + 100, 1));
  EXPECT_FALSE(recorder.saw(kData + 101, 1));
  EXPECT_TRUE(recorder.saw(driver.config().used + 2, 2));
  EXPECT_TRUE(recorder.saw(driver.config().used + 4, 8));
  queue.suppress_kicks();
  EXPECT_TRUE(recorder.saw(driver.config().used, 2));
  memory->set_write_observer(nullptr);
}

// Hostile drivers ---------------------------------------------------------------------------------

struct BadConfig {
  const char* name;
  QueueConfig config;
  QueueFault fault;
};

TEST(VirtQueueConfig, bad_configurations_are_refused) {
  const auto memory = make_test_memory();
  const Gpa d{0x1000};
  const Gpa a{0x2000};
  const Gpa u{0x3000};
  const BadConfig cases[] = {
      {"size 0", {0, d, a, u}, QueueFault::BadSize},
      {"no power of two", {6, d, a, u}, QueueFault::BadSize},
      {"above the device's limit", {512, d, a, u}, QueueFault::BadSize},
      {"desc misaligned", {8, d + 8, a, u}, QueueFault::MisalignedRing},
      {"avail misaligned", {8, d, a + 1, u}, QueueFault::MisalignedRing},
      {"used misaligned", {8, d, a, u + 2}, QueueFault::MisalignedRing},
      {"desc in the hole", {8, Gpa{MiB}, a, u}, QueueFault::RingOutsideRam},
      {"avail runs into the hole", {8, d, Gpa{MiB - 4}, u}, QueueFault::RingOutsideRam},
      {"used wraps", {8, d, a, Gpa{~uint64_t{0} - 3}}, QueueFault::RingOutsideRam},
      {"used_event outside", {8, d, Gpa{MiB - 20}, u}, QueueFault::RingOutsideRam},
  };
  for (const BadConfig& bad : cases) {
    VirtQueue queue(*memory);
    Chain chain;
    EXPECT_EQ(queue.configure(bad.config, {}, 256), bad.fault) << bad.name;
    EXPECT_TRUE(queue.is_broken()) << bad.name;
    EXPECT_FALSE(queue.pop(chain)) << bad.name;
    queue.push_used(chain, 0);
    queue.suppress_kicks();
    EXPECT_FALSE(queue.allow_kicks());
    EXPECT_FALSE(queue.needs_interrupt());
  }
}

// One descriptor table that breaks a rule. kTable holds `indirect`.
struct BadChain {
  const char* name;
  std::vector<Descriptor> direct;
  std::vector<Descriptor> indirect;
  QueueFault fault;
};

std::vector<BadChain> bad_chains() {
  const uint64_t d = kData.raw();
  const uint64_t t = kTable.raw();
  return {
      {"loop of two", {{d, 4, kDescNext, 1}, {d, 4, kDescNext, 0}}, {}, QueueFault::ChainTooLong},
      {"loop on itself", {{d, 4, kDescNext, 0}}, {}, QueueFault::ChainTooLong},
      {"loop of empty ones", {{d, 0, kDescNext, 0}}, {}, QueueFault::ChainTooLong},
      {"next too large", {{d, 4, kDescNext, 8}}, {}, QueueFault::NextOutOfRange},
      {"next far off", {{d, 4, kDescNext, 0xffff}}, {}, QueueFault::NextOutOfRange},
      {"buffer in the hole", {{MiB, 4, 0, 0}}, {}, QueueFault::BufferOutsideRam},
      {"buffer into the hole", {{MiB - 2, 4, 0, 0}}, {}, QueueFault::BufferOutsideRam},
      {"buffer across regions", {{MiB - 2, MiB + 4, 0, 0}}, {}, QueueFault::BufferOutsideRam},
      {"address overflows", {{~uint64_t{0} - 1, 16, 0, 0}}, {}, QueueFault::BufferOutsideRam},
      {"readable after writable",
       {{d, 4, kDescNext | kDescWrite, 1}, {d, 4, 0, 0}},
       {},
       QueueFault::WritableFirst},
      {"indirect and next",
       {{t, 16, kDescIndirect | kDescNext, 1}, {d, 4, 0, 0}},
       {{d, 4, 0, 0}},
       QueueFault::IndirectNotAllowed},
      {"indirect of indirect",
       {{t, 16, kDescIndirect, 0}},
       {{t, 16, kDescIndirect, 0}},
       QueueFault::IndirectNotAllowed},
      {"indirect length 0", {{t, 0, kDescIndirect, 0}}, {}, QueueFault::BadIndirectTable},
      {"indirect odd length", {{t, 24, kDescIndirect, 0}}, {}, QueueFault::BadIndirectTable},
      {"indirect in the hole", {{MiB, 16, kDescIndirect, 0}}, {}, QueueFault::BadIndirectTable},
      {"indirect overflows",
       {{~uint64_t{0} - 15, 32, kDescIndirect, 0}},
       {},
       QueueFault::BadIndirectTable},
      {"indirect next too large",
       {{t, 16, kDescIndirect, 0}},
       {{d, 4, kDescNext, 1}},
       QueueFault::NextOutOfRange},
      {"indirect loop",
       {{t, 32, kDescIndirect, 0}},
       {{d, 4, kDescNext, 1}, {d, 4, kDescNext, 0}},
       QueueFault::ChainTooLong},
  };
}

TEST(VirtQueueHostile, bad_chains_break_the_queue) {
  const QueueFeatures features{.event_idx = false, .indirect = true};
  for (const BadChain& bad : bad_chains()) {
    const auto memory = make_test_memory();
    TestDriver driver(*memory, 8, kRings, features);
    int faults = 0;
    VirtQueue queue(*memory, [&](QueueFault) { ++faults; });
    ASSERT_EQ(queue.configure(driver.config(), features, 8), QueueFault::None);
    uint16_t index = 0;
    for (const Descriptor& descriptor : bad.direct) driver.set_desc(index++, descriptor);
    for (size_t i = 0; i < bad.indirect.size(); ++i) {
      memory->store(kTable + i * 16, bad.indirect[i]);
    }
    driver.offer(0);
    driver.offer(0);
    driver.publish();
    Chain chain;
    EXPECT_FALSE(queue.pop(chain)) << bad.name;
    EXPECT_EQ(queue.fault(), bad.fault) << bad.name;
    EXPECT_FALSE(queue.pop(chain)) << bad.name;
    EXPECT_EQ(faults, 1) << bad.name;
    EXPECT_TRUE(chain.readable().empty() && chain.writable().empty()) << bad.name;
  }
}

TEST(VirtQueueHostile, indirect_without_the_feature_breaks_the_queue) {
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 8, kRings);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), {}, 8), QueueFault::None);
  driver.add_indirect(std::array{Buffer{kData, 4}}, kTable);
  driver.publish();
  Chain chain;
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::IndirectNotAllowed);
}

TEST(VirtQueueHostile, chain_of_too_many_parts_breaks_the_queue) {
  const auto memory = make_test_memory();
  const QueueFeatures features{.event_idx = false, .indirect = true};
  TestDriver driver(*memory, 8, kRings, features);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), features, 8), QueueFault::None);
  std::vector<Buffer> buffers(1025, Buffer{Gpa{2 * MiB}, MiB});
  driver.add_indirect(buffers, kTable);
  driver.publish();
  Chain chain;
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::ChainTooLong);
}

TEST(VirtQueueHostile, total_bytes_are_bounded) {
  const std::array<GpaRange, 1> ram{GpaRange{Gpa{0}, 3 * GiB}};
  auto memory = std::move(GuestMemory::create(ram)).value();
  TestDriver driver(*memory, 8, kRings);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), {}, 8), QueueFault::None);
  driver.add(std::array{Buffer{Gpa{0}, 0x8000'0000}, Buffer{Gpa{0}, 0x7fff'ffff}});
  driver.add(std::array{Buffer{Gpa{0}, 0x8000'0000}, Buffer{Gpa{0}, 0x8000'0000}});
  driver.publish();
  Chain chain;
  EXPECT_TRUE(queue.pop(chain));
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::ChainTooManyBytes);
}

TEST_F(VirtQueueTest, head_out_of_range_breaks_the_queue) {
  driver.offer(8);
  driver.publish();
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::HeadOutOfRange);
}

TEST_F(VirtQueueTest, avail_index_too_far_breaks_the_queue) {
  driver.set_avail_idx(9);
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::AvailIndexTooFar);
}

TEST_F(VirtQueueTest, avail_index_going_back_breaks_the_queue) {
  driver.add(Buffer{kData, 4});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  queue.push_used(chain, 0);
  driver.set_avail_idx(0);
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::AvailIndexTooFar);
}

TEST_F(VirtQueueTest, more_chains_in_flight_than_entries_break_the_queue) {
  driver.set_desc(0, {kData.raw(), 4, 0, 0});
  for (int i = 0; i < 9; ++i) driver.offer(0);  // the same descriptor again and again
  driver.set_avail_idx(8);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(queue.pop(chain));
  driver.set_avail_idx(9);
  EXPECT_FALSE(queue.pop(chain));
  EXPECT_EQ(queue.fault(), QueueFault::AvailIndexTooFar);
}

// Notifications -----------------------------------------------------------------------------------

TEST_F(VirtQueueTest, flags_suppress_interrupts_and_kicks) {
  driver.add(Buffer{kData, 4});
  driver.publish();
  EXPECT_TRUE(driver.needs_kick());
  queue.suppress_kicks();
  driver.add(Buffer{kData, 4});
  driver.publish();
  EXPECT_FALSE(driver.needs_kick());
  EXPECT_TRUE(queue.allow_kicks());  // two are pending, for which no kick comes

  EXPECT_FALSE(queue.needs_interrupt());  // nothing used yet
  driver.refuse_interrupt();
  ASSERT_TRUE(queue.pop(chain));
  queue.push_used(chain, 0);
  EXPECT_FALSE(queue.needs_interrupt());
  driver.want_interrupt();
  ASSERT_TRUE(queue.pop(chain));
  queue.push_used(chain, 0);
  EXPECT_TRUE(queue.needs_interrupt());
  EXPECT_FALSE(queue.needs_interrupt());  // told once
  EXPECT_FALSE(queue.allow_kicks());
  EXPECT_FALSE(queue.allow_kicks_after(3));  // which these drivers cannot
  driver.add(Buffer{kData, 4});
  driver.publish();
  EXPECT_TRUE(driver.needs_kick());
}

TEST(VirtQueueEventIdx, kick_comes_with_the_buffer_that_was_asked_for) {
  const QueueFeatures features{.event_idx = true, .indirect = false};
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 16, kRings, features);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), features, 16), QueueFault::None);
  const auto offer_one = [&] {
    driver.add(TestDriver::Buffer{kData, 4});
    driver.publish();
    return driver.needs_kick();
  };
  EXPECT_FALSE(queue.allow_kicks_after(3));
  EXPECT_FALSE(offer_one());
  EXPECT_FALSE(offer_one());
  EXPECT_FALSE(queue.allow_kicks_after(3)) << "two are no three";
  EXPECT_TRUE(offer_one());
  EXPECT_TRUE(queue.allow_kicks_after(3)) << "no kick comes for them";
  Chain chain;
  while (queue.pop(chain)) queue.push_used(chain, 0);
  while (driver.take_used()) {
  }
  // A driver could not have more under way.
  EXPECT_FALSE(queue.allow_kicks_after(100));
  for (int i = 0; i < 7; ++i) EXPECT_FALSE(offer_one()) << i;
  EXPECT_TRUE(offer_one());
}

// Model of §2.7.10.1 with unbounded counters: an event at `event` fires when a step goes from at
// most `event` to more than `event`.
TEST(VirtQueueEventIdx, interrupts_agree_with_an_unbounded_model) {
  const QueueFeatures features{.event_idx = true, .indirect = false};
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 64, kRings, features);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), features, 64), QueueFault::None);
  std::mt19937 random(1);
  Chain chain;
  uint64_t used = 0;
  uint64_t wanted = 0;  // interrupt once `used` passes it
  int fired = 0;
  for (int round = 0; round < 20000; ++round) {
    const uint64_t batch = 1 + random() % 60;
    for (uint64_t i = 0; i < batch; ++i) driver.add(Buffer{kData, 1});
    driver.publish();
    for (uint64_t i = 0; i < batch; ++i) {
      ASSERT_TRUE(queue.pop(chain));
      queue.push_used(chain, 0);
    }
    const bool expected = used <= wanted && wanted < used + batch;
    used += batch;
    EXPECT_EQ(queue.needs_interrupt(), expected) << round;
    if (expected) ++fired;
    while (driver.take_used()) {
    }
    if (expected || random() % 4 == 0) {
      wanted = used + random() % 100;
      driver.set_used_event(static_cast<uint16_t>(wanted));
    }
  }
  EXPECT_GT(fired, 1000);
}

TEST(VirtQueueEventIdx, kicks_are_asked_for_when_the_device_waits_and_only_then) {
  const QueueFeatures features{.event_idx = true, .indirect = false};
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 64, kRings, features);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), features, 64), QueueFault::None);
  std::mt19937 random(2);
  Chain chain;
  bool is_waiting = true;  // a new queue has avail_event 0: the first buffer kicks
  uint64_t pending = 0;
  for (int round = 0; round < 20000; ++round) {
    const uint64_t room = driver.free_descriptors();
    const uint64_t batch = room == 0 ? 0 : random() % room;
    for (uint64_t i = 0; i < batch; ++i) driver.add(Buffer{kData, 1});
    driver.publish();
    pending += batch;
    EXPECT_EQ(driver.needs_kick(), is_waiting && batch > 0) << round;
    if (batch > 0) is_waiting = false;
    queue.suppress_kicks();
    const uint64_t taken = random() % 3 == 0 ? pending : random() % (pending + 1);
    for (uint64_t i = 0; i < taken; ++i) {
      ASSERT_TRUE(queue.pop(chain));
      queue.push_used(chain, 0);
      driver.take_used();
    }
    pending -= taken;
    if (pending > 0) continue;
    EXPECT_FALSE(queue.allow_kicks());
    is_waiting = true;
  }
}

TEST(VirtQueueServe, stops_at_its_limit_and_can_put_a_chain_back) {
  const auto memory = make_test_memory();
  TestDriver driver(*memory, 8, kRings);
  VirtQueue queue(*memory);
  ASSERT_EQ(queue.configure(driver.config(), {}, 8), QueueFault::None);
  for (int i = 0; i < 5; ++i) driver.add(Buffer{kData, 4});
  driver.publish();
  Chain chain;
  int handled = 0;
  const auto take = [&](Chain& taken) {
    queue.push_used(taken, 0);
    ++handled;
    return true;
  };
  EXPECT_TRUE(serve(queue, chain, 3, take));
  EXPECT_EQ(handled, 3);
  EXPECT_FALSE(serve(queue, chain, 3, [](Chain&) { return false; }));
  EXPECT_EQ(queue.pending(), 2);
  EXPECT_FALSE(serve(queue, chain, 3, take));
  EXPECT_EQ(handled, 5);
}

TEST_F(VirtQueueTest, saved_queue_goes_on_elsewhere) {
  driver.add(Buffer{kData, 4});
  const uint16_t second = driver.add(Buffer{kData, 4});
  driver.publish();
  ASSERT_TRUE(queue.pop(chain));
  queue.push_used(chain, 0);
  VirtQueue copy(*memory);
  EXPECT_EQ(copy.restore(queue.save()), QueueFault::None);
  EXPECT_EQ(copy.save(), queue.save());
  ASSERT_TRUE(copy.pop(chain));
  EXPECT_EQ(chain.head(), second);
  EXPECT_TRUE(copy.needs_interrupt());
}

TEST_F(VirtQueueTest, restored_addresses_are_checked_again) {
  QueueState state = queue.save();
  state.config.used = Gpa{MiB};
  VirtQueue copy(*memory);
  EXPECT_EQ(copy.restore(state), QueueFault::RingOutsideRam);
}

}  // namespace
}  // namespace trapeze
