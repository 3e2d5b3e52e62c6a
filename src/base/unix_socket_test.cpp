#include "base/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

namespace trapeze {
namespace {

struct UnixSocketTest : testing::Test {
  void SetUp() override {
    int numbers[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, numbers), 0);
    ours = Fd(numbers[0]);
    theirs = Fd(numbers[1]);
    ASSERT_EQ(::pipe2(numbers, O_CLOEXEC), 0);
    read_end = Fd(numbers[0]);
    write_end = Fd(numbers[1]);
  }
  ssize_t send(std::string text, std::span<const int> fds) {
    const iovec part{text.data(), text.size()};
    return send_with_fds(ours.get(), {&part, 1}, fds, 0);
  }
  ssize_t receive(std::span<Fd> fds) {
    const iovec part{bytes.data(), bytes.size()};
    return receive_with_fds(theirs.get(), {&part, 1}, fds, 0);
  }

  Fd ours, theirs, read_end, write_end;
  std::array<char, 64> bytes{};
};

TEST_F(UnixSocketTest, descriptors_come_with_the_bytes_and_work) {
  EXPECT_EQ(send("two", std::array{read_end.get(), write_end.get()}), 3);
  std::array<Fd, 3> fds;
  EXPECT_EQ(receive(fds), 3);
  EXPECT_EQ(std::string(bytes.data(), 3), "two");
  ASSERT_TRUE(fds[0].is_open() && fds[1].is_open());
  EXPECT_FALSE(fds[2].is_open());
  EXPECT_EQ(::write(fds[1].get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(::read(fds[0].get(), &byte, 1), 1);
  EXPECT_EQ(::fcntl(fds[0].get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(UnixSocketTest, descriptors_that_nobody_expects_are_closed) {
  EXPECT_EQ(send("many", std::array{write_end.get(), write_end.get(), write_end.get()}), 4);
  write_end.reset();
  {
    std::array<Fd, 1> fds;
    EXPECT_EQ(receive(fds), 4);
    EXPECT_TRUE(fds[0].is_open());
  }
  char byte = 0;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "somebody still holds the other end";
}

TEST_F(UnixSocketTest, bytes_alone_are_bytes_alone) {
  EXPECT_EQ(send("none", {}), 4);
  std::array<Fd, 1> fds;
  EXPECT_EQ(receive(fds), 4);
  EXPECT_FALSE(fds[0].is_open());
}

}  // namespace
}  // namespace trapeze
