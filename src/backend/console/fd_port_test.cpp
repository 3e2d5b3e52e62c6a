#include "backend/console/fd_port.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "backend/console/fd_sink.h"
#include "base/thread.h"

namespace trapeze {
namespace {

using Direction = StreamFd::Direction;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0);  // blocking, as a shell makes them
    read_end = Fd(ends[0]);
    write_end = Fd(ends[1]);
  }
  Fd read_end;
  Fd write_end;
};

// Takes as much as `room` says.
struct FakeGuest final : ConsoleGuest {
  size_t send(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    got.append(reinterpret_cast<const char*>(bytes.data()), taken);
    room -= taken;
    return taken;
  }
  void output_ready() override { ++output_ready_calls; }
  void set_host_open(bool open) override { is_host_open = open; }
  void resize(uint16_t, uint16_t) override {}
  std::string got;
  size_t room = 1 << 20;
  int output_ready_calls = 0;
  bool is_host_open = true;
};

struct FdPortTest : ::testing::Test {
  FdPortTest() { ::signal(SIGPIPE, SIG_IGN); }
  // One batch of events at a time, until nothing more is ready. What the tests wait for is ready
  // before they call this: they do not depend on the machine's speed.
  void run_ready() {
    for (int turn = 0; turn < 8; ++turn) {
      loop->post([this] { loop->stop(); });
      loop->run();
    }
  }
  std::unique_ptr<FdPort> make(int in, int out, bool closes = false) {
    FdPortConfig config;
    if (in >= 0) config.input = std::move(StreamFd::borrow(in, Direction::Read)).value();
    if (out >= 0) config.output = std::move(StreamFd::borrow(out, Direction::Write)).value();
    config.close_at_end_of_input = closes;
    return std::move(FdPort::create(*loop, std::move(config))).value();
  }
  static std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
  }
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  FakeGuest guest;
};

TEST_F(FdPortTest, input_reaches_the_guest_then_its_end) {
  Pipe pipe;
  ASSERT_EQ(::write(pipe.write_end.get(), "hello", 5), 5);
  auto port = make(pipe.read_end.get(), -1, true);
  run_ready();  // nobody attached yet: kept
  port->attach(&guest);
  run_ready();
  EXPECT_EQ(guest.got, "hello");
  EXPECT_TRUE(guest.is_host_open);
  pipe.write_end.reset();
  run_ready();
  EXPECT_FALSE(guest.is_host_open);
}

TEST_F(FdPortTest, guest_without_room_stops_the_reading) {
  Pipe pipe;
  auto port = make(pipe.read_end.get(), -1);
  port->attach(&guest);
  guest.room = 3;
  ASSERT_EQ(::write(pipe.write_end.get(), "hello", 5), 5);
  run_ready();
  EXPECT_EQ(guest.got, "hel");
  ASSERT_EQ(::write(pipe.write_end.get(), " world", 6), 6);
  guest.room = 100;
  run_ready();
  EXPECT_EQ(guest.got, "hel");
  port->on_guest_ready();
  run_ready();
  EXPECT_EQ(guest.got, "hello world");
}

TEST_F(FdPortTest, regular_file_is_read_to_its_end) {
  std::array<char, 32> path{"/tmp/fd_port_test_XXXXXX"};
  const Fd file(::mkstemp(path.data()));
  ::unlink(path.data());
  const std::string text(200'000, 'x');
  ASSERT_EQ(::write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ::lseek(file.get(), 0, SEEK_SET);
  auto port = make(file.get(), -1, true);
  port->attach(&guest);
  run_ready();
  EXPECT_EQ(guest.got, text);
  EXPECT_FALSE(guest.is_host_open);
}

TEST_F(FdPortTest, slow_reader_of_a_blocking_pipe_stalls_the_guest_not_the_loop) {
  Pipe pipe;
  auto port = make(-1, pipe.write_end.get());
  port->attach(&guest);
  const std::string text(1 << 20, 'y');
  const size_t taken = port->receive(bytes(text));
  EXPECT_GE(taken, 4096U);
  EXPECT_LT(taken, text.size());
  EXPECT_EQ(::fcntl(pipe.write_end.get(), F_GETFL) & O_NONBLOCK, 0);  // others are not touched
  run_ready();
  EXPECT_EQ(guest.output_ready_calls, 0);
  std::vector<char> buffer(taken);
  ASSERT_EQ(::read(pipe.read_end.get(), buffer.data(), buffer.size()), static_cast<ssize_t>(taken));
  run_ready();
  EXPECT_EQ(guest.output_ready_calls, 1);
}

TEST_F(FdPortTest, output_that_nobody_reads_any_more_is_dropped) {
  Pipe pipe;
  auto port = make(-1, pipe.write_end.get());
  pipe.read_end.reset();
  EXPECT_EQ(port->receive(bytes("hello")), 5U);
  EXPECT_EQ(port->receive(bytes("hello")), 5U);
  run_ready();
}

TEST_F(FdPortTest, socket_works_both_ways) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const Fd ours(ends[0]);
  const Fd theirs(ends[1]);
  const Fd ours_again(::dup(ours.get()));
  auto port = make(ours.get(), ours_again.get());
  port->attach(&guest);
  ASSERT_EQ(::write(theirs.get(), "in", 2), 2);
  EXPECT_EQ(port->receive(bytes("out")), 3U);
  run_ready();
  EXPECT_EQ(guest.got, "in");
  std::array<char, 3> got{};
  EXPECT_EQ(::read(theirs.get(), got.data(), got.size()), 3);
}

TEST(FdSinkTest, waits_for_a_slow_reader_and_loses_nothing) {
  Pipe pipe;
  auto sink =
      std::move(FdSink::create(
                    std::move(StreamFd::borrow(pipe.write_end.get(), Direction::Write)).value()))
          .value();
  const std::vector<uint8_t> text(300'000, 'z');
  size_t got = 0;
  Thread reader("reader", [&] {
    std::vector<char> buffer(10'000);
    while (got < text.size()) {
      const auto count = ::read(pipe.read_end.get(), buffer.data(), buffer.size());
      if (count <= 0) break;
      got += static_cast<size_t>(count);
    }
  });
  sink->write(text);
  reader.join();
  EXPECT_EQ(got, text.size());
}

TEST(FdSinkTest, stop_ends_the_waiting) {
  Pipe pipe;
  auto sink =
      std::move(FdSink::create(
                    std::move(StreamFd::borrow(pipe.write_end.get(), Direction::Write)).value()))
          .value();
  Thread stopper("stopper", [&] { sink->stop(); });
  sink->write(std::vector<uint8_t>(300'000, 'z'));
  sink->write(std::vector<uint8_t>(300'000, 'z'));
}

}  // namespace
}  // namespace trapeze
