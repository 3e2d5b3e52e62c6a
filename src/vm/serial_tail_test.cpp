#include "vm/serial_tail.h"

#include <gtest/gtest.h>

#include <string_view>

namespace trapeze {
namespace {

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct Collector final : ByteSink {
  void write(std::span<const uint8_t> bytes) override { all.append(bytes.begin(), bytes.end()); }
  std::string all;
};

TEST(SerialTail, LastLines_ComeWithoutControlCharacters) {
  SerialTail tail(nullptr);
  tail.write(bytes_of("one\r\ntwo\x1b[31m\r\nthree\r\n\r\n"));
  EXPECT_EQ(tail.tail(2), "two[31m\nthree");
  EXPECT_EQ(tail.tail(10), "one\ntwo[31m\nthree");
}

TEST(SerialTail, MoreThanItKeeps_LosesTheOldest) {
  SerialTail tail(nullptr);
  for (int i = 0; i < 10'000; ++i) tail.write(bytes_of(std::to_string(i) + "\n"));
  EXPECT_EQ(tail.tail(2), "9998\n9999");
  EXPECT_LE(tail.tail(100'000).size(), 16U * 1024);
}

TEST(SerialTail, NothingWritten_IsEmpty) { EXPECT_EQ(SerialTail(nullptr).tail(5), ""); }

TEST(SerialTail, AllBytes_ArePassedOnUnchanged) {
  Collector next;
  SerialTail tail(&next);
  tail.write(bytes_of("a\r\n\x1b"));
  tail.write(bytes_of("b"));
  EXPECT_EQ(next.all,
            "a\r\n\x1b"
            "b");
}

}  // namespace
}  // namespace trapeze
