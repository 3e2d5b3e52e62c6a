#include "virtio/queue/iov.h"

#include <gtest/gtest.h>

#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

struct IovTest : ::testing::Test {
  IovTest() {
    EXPECT_EQ(queue.configure(driver.config(), {}, 8), QueueFault::None);
    memory->write(Gpa{0x10000}, std::as_bytes(std::span("ABCDEFGHIJ", 10)));
    const std::array buffers{
        TestDriver::Buffer{Gpa{0x10000}, 3}, TestDriver::Buffer{Gpa{0x10003}, 7},
        TestDriver::Buffer{Gpa{0x11000}, 2, true}, TestDriver::Buffer{Gpa{0x12000}, 4, true}};
    driver.add(buffers);
    driver.publish();
    EXPECT_TRUE(queue.pop(chain));
  }
  std::unique_ptr<GuestMemory> memory = make_test_memory();
  TestDriver driver{*memory, 8, Gpa{0x1000}};
  VirtQueue queue{*memory};
  Chain chain;
};

TEST_F(IovTest, value_across_parts_is_read_whole) {
  ChainReader reader(chain);
  EXPECT_EQ(reader.read_value<uint32_t>(), 0x44434241U);
  EXPECT_EQ(reader.position(), 4U);
  EXPECT_EQ(reader.remaining(), 6U);
}

TEST_F(IovTest, value_beyond_the_end_is_refused) {
  ChainReader reader(chain);
  reader.skip(7);
  EXPECT_FALSE(reader.read_value<uint32_t>().has_value());
  EXPECT_EQ(reader.remaining(), 3U);
  reader.skip(~uint64_t{0});
  EXPECT_EQ(reader.remaining(), 0U);
  EXPECT_TRUE(reader.contiguous().empty());
}

TEST_F(IovTest, contiguous_parts_are_handed_out_one_by_one) {
  ChainReader reader(chain);
  EXPECT_EQ(reader.contiguous().size(), 3U);
  reader.skip(1);
  EXPECT_EQ(reader.contiguous().size(), 2U);
  reader.skip(2);
  EXPECT_EQ(reader.contiguous().size(), 7U);
}

TEST_F(IovTest, writer_crosses_parts_and_stops_at_the_end) {
  ChainWriter writer(chain);
  EXPECT_TRUE(writer.write_value(uint32_t{0x34333231}));
  EXPECT_FALSE(writer.write_value(uint32_t{0}));
  EXPECT_EQ(writer.position(), 4U);
  EXPECT_EQ(writer.write(std::as_bytes(std::span("xyz", 3))), 2U);
  EXPECT_EQ(text_at(*memory, Gpa{0x11000}, 2), "12");
  EXPECT_EQ(text_at(*memory, Gpa{0x12000}, 4), "34xy");
}

}  // namespace
}  // namespace trapeze
