#include "backend/console/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace trapeze {
namespace {

struct TerminalTest : ::testing::Test {
  TerminalTest() {
    int ends[2] = {-1, -1};
    CHECK(::openpty(&ends[0], &ends[1], nullptr, nullptr, nullptr) == 0);
    host = Fd(ends[0]);
    terminal = Fd(ends[1]);
  }
  tcflag_t local_flags() const {
    termios now{};
    CHECK(::tcgetattr(terminal.get(), &now) == 0);
    return now.c_lflag;
  }
  bool is_raw() const { return (local_flags() & (ICANON | ECHO | ISIG)) == 0; }
  Fd host;
  Fd terminal;
};

TEST_F(TerminalTest, settings_change_and_come_back) {
  const tcflag_t before = local_flags();
  EXPECT_FALSE(is_raw());
  {
    const auto raw = std::move(RawTerminal::create(terminal.get())).value();
    EXPECT_TRUE(is_raw());
    EXPECT_FALSE(RawTerminal::create(terminal.get()).has_value());  // one at a time
    EXPECT_TRUE(is_raw());
  }
  EXPECT_EQ(local_flags(), before);
  EXPECT_TRUE(RawTerminal::create(terminal.get()).has_value());
}

TEST_F(TerminalTest, what_is_no_terminal_is_refused) {
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(RawTerminal::create(null.get()).has_value());
  EXPECT_EQ(terminal_size(null.get()), (TerminalSize{80, 25}));
}

TEST_F(TerminalTest, size_changes_are_told_on_the_loop) {
  auto loop = std::move(EventLoop::create()).value();
  const auto raw = std::move(RawTerminal::create(terminal.get())).value();
  std::vector<TerminalSize> sizes;
  const auto set_size = [&](uint16_t columns, uint16_t rows) {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal.get(), TIOCSWINSZ, &size), 0);
  };
  set_size(100, 30);
  ASSERT_TRUE(raw->watch_size(*loop, [&](TerminalSize size) {
    sizes.push_back(size);
    if (sizes.size() == 2) return loop->stop();
    set_size(132, 43);
    ::raise(SIGWINCH);  // the test has no controlling terminal that would send it
  }));
  loop->run();
  EXPECT_EQ(sizes, (std::vector<TerminalSize>{{100, 30}, {132, 43}}));
}

// Ends a child by `signal` while the terminal is raw.
void expect_restored_after(const TerminalTest& test, int signal, int expected) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(signal, SIG_DFL);  // sanitizers have handlers of their own
    const auto raw = RawTerminal::create(test.terminal.get());
    if (!raw.has_value() || !test.is_raw()) ::_exit(1);
    ::raise(signal);
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), expected);
  EXPECT_FALSE(test.is_raw());
}

TEST_F(TerminalTest, crash_leaves_a_usable_terminal) {
  expect_restored_after(*this, SIGSEGV, SIGSEGV);
  expect_restored_after(*this, SIGABRT, SIGABRT);
  expect_restored_after(*this, SIGTERM, SIGTERM);
}

}  // namespace
}  // namespace trapeze
